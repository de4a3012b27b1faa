"""A run's saved config as plain values: what YAML and OmegaConf could do beyond that is refused unread. No torch.

A config from somebody else is text with values. So no tags, which make objects; no anchors, of which a few lines can
expand to billions of values; and no interpolations that read the environment, the disk or the clock. The one
interpolation that stays is a reference to another key of the same config, such as `${env.default_env_steps}`: Hydra
saves those as they were composed, and the report groups runs by them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from pg_experiments.backend_config import taken
from pg_experiments.composition import schema_node, to_config
from pg_experiments.config import GROUPS, SCHEMAS, Config, OptimizerConfig
from pg_experiments.errors import ConfigError, UserError, first_line
from pg_experiments.trust import check_trust
from pg_experiments.untrusted_files import read_inside

SAVED = Path(".hydra") / "config.yaml"
TYPED = Path(".hydra") / "overrides.yaml"
MOST_BYTES = 100_000  # a run's config has about two thousand
AUTO = re.compile(r"^(env:\n(?: .*\n)*?  backend: )auto$", re.MULTILINE)  # as written by Hydra or by us
DEEPEST = 20  # levels of lists and mappings
REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's plain values, numbers as OmegaConf reads them (`1e-3` is one)."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


def read_config(path: Path, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a saved config, and the same as written, with its references.

    Args:
        path: of the file.
        root: the folder that it has to be in.

    Raises:
        UserError: one line that names the file and what is wrong with it; nothing but plain values was made by then.
        OSError: when it cannot be read.
    """
    content = read_inside(root, path, MOST_BYTES)
    try:
        text = content.decode()
        _check_events(text)
        written = yaml.load(text, Loader=_Loader)
        if not isinstance(written, dict):
            raise UserError("it is not a mapping of keys to values")
        written = _with_text_keys(written)
        return _resolved(written, written), written
    except (UserError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {first_line(error)}") from error


def read_overrides(path: Path, root: Path) -> tuple[str, ...]:
    """What was typed for a run; nothing where it was made without Hydra, or where the file is no list of texts.

    Args:
        path, root: as of `read_config`.
    """
    try:
        text = read_inside(root, path, MOST_BYTES).decode()
        _check_events(text)
        typed = yaml.load(text, Loader=_Loader)
    except (OSError, UserError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        return ()
    return tuple(typed) if isinstance(typed, list) and all(isinstance(item, str) for item in typed) else ()


def load_config(run_dir: Path, trust: Sequence[str] = ()) -> Config:
    """The config that a run's folder holds. Nothing of the folder is executed or imported.

    Args:
        run_dir: the folder.
        trust: packages whose classes it may name, besides ours and those of `torch.optim`.

    Raises:
        UserError: when the folder is no run, its config holds more than plain values or does not fit the schema, or
            when it names what is not trusted.
    """
    path = run_dir / SAVED
    if not path.is_file():
        raise UserError(f"{run_dir}: not a run's folder; it has no {SAVED}")
    try:
        values, _ = read_config(path, run_dir)
        check_trust(values, trust)
        saved = OmegaConf.create(values)
        parts = {group: _typed_part(group, saved[group]) for group in GROUPS}
        node = OmegaConf.merge(schema_node(Config), saved, parts)
        assert isinstance(node, DictConfig)
        return to_config(node)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (OmegaConfBaseException, AssertionError, TypeError, KeyError) as error:
        reason = (str(error) or "it does not have the keys of a run's config").splitlines()[0]
        raise UserError(f"{path}: {reason}") from error


def _typed_part(group: str, part: DictConfig) -> Any:
    """A saved part with the schema that its `_target_` belongs to, if it is one of ours."""
    for schema in SCHEMAS[group].values():
        if schema is not OptimizerConfig and getattr(schema, "_target_", None) == part["_target_"]:
            typed = OmegaConf.merge(schema_node(schema), part)
            assert isinstance(typed, DictConfig)
            if isinstance(part.get("optimizer"), DictConfig):
                typed["optimizer"] = _typed_part("optimizer", part["optimizer"])
            return typed
    return part


def write_config(path: Path, config: Config) -> None:
    """Write a run's config, unless the file is there and `read_config` takes it.

    Hydra writes it before the run begins. What was typed may hold more than a saved config should, such as
    `seed=${oc.env:SEED}`: then it is written again, with the values that the run was trained with. In the place of
    `env.backend: auto` stands afterwards what it was, so that the run is the same on any machine.
    """
    if path.exists():
        try:
            text = path.read_text()
            if not _is_plain(text):
                read_config(path, path.parent)
            if AUTO.search(text):
                path.write_text(AUTO.sub(rf"\g<1>{taken(config.env)}", text))
            return
        except (UserError, UnicodeDecodeError):
            pass
    path.parent.mkdir(exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))


def _is_plain(text: str) -> bool:
    """Whether text that we wrote as YAML has nothing that a saved config may not have, seen without parsing (2 ms)."""
    return text.count("${") == len(REFERENCE.findall(text)) and not re.search(r"[&*!]", text)


def _check_events(text: str) -> None:
    """Refuse what is more than plain values, before anything is made of it.

    The nesting is limited here because libyaml makes values by recursion in C, without Python's limit.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UserError(f"line {line} has an anchor or alias (& or *), which a saved config never has")
        if (tag := getattr(event, "tag", None)) is not None:
            raise UserError(f"line {line} has the tag {tag}, but a saved config holds plain values only")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise UserError(f"line {line} is nested deeper than {DEEPEST} levels")


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _with_text_keys(child) for key, child in value.items()}
    return [_with_text_keys(child) for child in value] if isinstance(value, list) else value


def _resolved(value: Any, whole: Mapping[str, Any], key: str = "") -> Any:
    """The value with the values of its references in their place, also of a reference to a reference."""
    if isinstance(value, dict):
        return {name: _resolved(child, whole, f"{key}.{name}" if key else name) for name, child in value.items()}
    if isinstance(value, list):
        return [_resolved(child, whole, key) for child in value]
    if not (isinstance(value, str) and "${" in value):
        return value
    found = REFERENCE.fullmatch(value)
    if found is None:
        raise ConfigError(
            key, value, "a saved config holds values, or references to its own keys such as ${env.gamma}, and no more"
        )
    target, passed = _at(whole, found[1].split(".")), {value}
    while isinstance(target, str) and (further := REFERENCE.fullmatch(target)) and target not in passed:
        passed.add(target)
        target = _at(whole, further[1].split("."))
    if isinstance(target, dict | list) or (isinstance(target, str) and "${" in target):
        raise ConfigError(key, value, f"{found[1]} is no plain value of this config")
    return target


def _at(value: Any, names: Iterable[str]) -> Any:
    """The value at a dotted key; the (empty) mapping of values when there is none."""
    for name in names:
        if not isinstance(value, dict) or name not in value:
            return {}
        value = value[name]
    return value
