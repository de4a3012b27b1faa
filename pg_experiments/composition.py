"""Hydra at the edge: overrides in, a checked `Config` out, and Hydra's errors in one line. Imports no torch."""

import copy
import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pg_experiments.backend_config import resolved
from pg_experiments.composed_keys import lacking_keys, refuse_added_keys
from pg_experiments.config import GROUPS, SCHEMAS, Config, check_values
from pg_experiments.errors import ConfigError, UserError, first_line, nearest, needs_extra

EXTRAS = {("hydra/launcher", "joblib"): "joblib", ("hydra/sweeper", "optuna"): "optuna"}
FREE = r"(?:\w+\.)+kwargs[.=]|hydra\.launcher\.(?:ray|submitit)\."  # where every key is handed on to another library
VALUES = {field.name for field in fields(Config)} - set(GROUPS)  # top-level keys that choose no file
ENDLESS = r"\d{4301}"  # digits that Python's int() refuses
OF_DEFAULTS = ("env", "algorithm")  # groups whose `default_` keys other parts take over
LONGEST_NAME = 110  # characters of a job's folder, before the digest; file systems allow 255


def conf_dir() -> Path:
    """Our YAML folder: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if (folder / "config.yaml").exists())


def register() -> None:
    """Make the schemas and our resolvers known to Hydra; calling it again changes nothing."""
    store = ConfigStore.instance()
    if "config.yaml" not in store.repo.get("hydra", {}).get("schema", {}):
        for group, options in SCHEMAS.items():
            for name, schema in options.items():
                store.store(group=f"hydra/schema/{group}", name=name, node=schema_node(schema))
        store.store(group="hydra/schema", name="config", node=schema_node(Config))
    OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(2), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("first_given", _first_given, replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


def _first_given(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def folder_name(text: str) -> str:
    """A job's overrides as the name of its folder: one level, portable characters, at most 120 of them.

    What is lost by that is made up for by a digest, so that different overrides have different folders.

    Example:
        >>> folder_name("optimizer.lr=0.001,seed=3")
        'optimizer.lr=0.001,seed=3'
        >>> folder_name("env.id=my/Env-v0")
        'env.id=my_Env-v0_6200099d'
    """
    plain = re.sub(r"[^\w.,=+@~-]", "_", text, flags=re.ASCII).lstrip(".")[:LONGEST_NAME]
    if plain == text:
        return plain or "job"
    return f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def schema_node(schema: type) -> DictConfig:
    node = OmegaConf.structured(schema)
    nested = [node._get_node(key) for key in node]
    for part in (node, *(child for child in nested if isinstance(child, DictConfig))):
        OmegaConf.set_readonly(part, None)  # a frozen dataclass would forbid Hydra to merge into it
    return node


def compose(*overrides: str, config_dir: str | Path | None = None) -> Config:
    """Compose one run's config from our YAML files and Hydra overrides, and check it.

    Args:
        overrides: as on the command line, such as `"env=cartpole"`, `"optimizer.lr=1e-3"`.
        config_dir: a folder with the user's own YAML files, like Hydra's `--config-dir`.

    Raises:
        UserError: when a key or value cannot be used; the message is one line.

    Example:
        >>> compose("policy=softmax", "env=cartpole", "seed=3").seed
        3
    """
    return to_config(compose_node(list(overrides), config_dir))


def compose_node(overrides: Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """The same as `compose`, before the checks and with types still Hydra's."""
    register()
    overrides = free_keys(overrides)
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        if config_dir and not Path(config_dir).is_dir():
            raise UserError(f"--config-dir={config_dir}: there is no such folder")
        if config_dir or any(item.is_sweep_override() or item.is_hydra_override() for item in parsed):
            return _walk_defaults(overrides, config_dir)
        node = _base([str(item.input_line) for item in parsed if not sets_value(item)])
        ConfigLoaderImpl._apply_overrides_to_config([item for item in parsed if sets_value(item)], node)
        return node
    except (HydraException, OmegaConfBaseException) as error:
        raise one_line(error, overrides) from error
    except ValueError as error:  # Hydra's, for a group that is set to a number or to null
        for group, schemas in SCHEMAS.items():
            value = next((item.partition("=")[2] for item in overrides if item.startswith(f"{group}=")), None)
            if value is not None and value not in schemas:
                raise ConfigError(group, value, f"must be one of {', '.join(sorted(schemas))}") from error
        if endless := next((item for item in overrides if re.search(ENDLESS, item)), None):
            key, _, value = endless.lstrip("+~").partition("=")
            raise ConfigError(key, value, "has a number with more digits than Python reads") from error
        raise UserError(first_line(error)) from error


def sets_value(override: Override) -> bool:
    """Whether an override sets a value, and so leaves the choice of files as it is."""
    if override.package is not None or override.is_hydra_override():
        return False
    return "." in override.key_or_group or override.key_or_group in VALUES


_bases: dict[tuple[Any, ...], tuple[list[Any], DictConfig]] = {}


def _base(choices: Sequence[str]) -> DictConfig:
    """A copy of the config that a choice of files makes; Hydra walks the defaults list once for all of its values.

    That walk is nearly all the time that a composition takes. It is done again when a file of ours or a schema in
    Hydra's store is another one; the store's nodes are kept, so that no new one can be taken for an old one.
    """
    Plugins.instance()  # they store configs of their own
    stored = list(_leaves(ConfigStore.instance().repo))
    files = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in conf_dir().rglob("*.yaml")]
    key = (tuple(choices), tuple(files), tuple(map(id, stored)))
    if key not in _bases:
        _bases[key] = stored, _walk_defaults(choices, None)
    return copy.deepcopy(_bases[key][1])


def _leaves(tree: dict[str, Any]) -> Iterator[Any]:
    for branch in tree.values():
        if isinstance(branch, dict):
            yield from _leaves(branch)
        else:
            yield branch


def _walk_defaults(overrides: Sequence[str], config_dir: str | Path | None) -> DictConfig:
    """Hydra's own composition, about 150 ms."""
    search_path = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    hydra = GlobalHydra.instance().hydra if GlobalHydra.instance().is_initialized() else None
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="train"):
            return hydra_compose("config", overrides=[*overrides, *search_path])
    finally:
        GlobalHydra.instance().clear()
        if hydra is not None:
            GlobalHydra.instance().initialize(hydra)


def to_config(node: DictConfig) -> Config:
    """Resolve a composed node into frozen dataclasses and check every value.

    Raises:
        UserError: names the key, the value and what is allowed.
    """
    if "hydra" in node or any(lacking_keys(node)):  # seldom, and a copy takes longer than all the rest
        node = node.copy()
        with open_dict(node):
            node.pop("hydra", None)
        for part, name, value in list(lacking_keys(node)):
            with open_dict(part):
                part[name] = value
    refuse_added_keys(node)
    for group in GROUPS:
        if OmegaConf.is_missing(node, group):
            raise ConfigError(group, None, f"is required; give it as {group}=...")
    try:
        for group in OF_DEFAULTS:
            chosen = node._get_node(group)
            if isinstance(chosen, DictConfig) and not chosen._is_missing() and not chosen._is_none():
                OmegaConf.to_object(chosen)  # first: the key at fault is its own
        config = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        if "missing mandatory value" in str(error).lower():
            key = f"{getattr(error, 'full_key', '')}".strip(".")
            raise ConfigError(key, None, f"is required; give it as {key}=...") from error
        raise one_line(error, []) from error
    assert isinstance(config, Config)
    check_values(config)
    return replace(config, env=resolved(config.env))


def free_keys(overrides: Sequence[str]) -> list[str]:
    """Let `env.kwargs.mass=2` and `hydra.launcher.ray.address=auto` add keys without Hydra's `+`: any key is right."""
    return [re.sub(rf"^({FREE})", r"++\1", override) for override in overrides]


def one_line(error: Exception, overrides: Sequence[str]) -> UserError:
    """Hydra's or OmegaConf's error as one line that names key, value, what is allowed and the nearest choice."""
    text = str(error)
    if isinstance(error, MissingConfigException):
        wanted = (error.missing_cfg_file or "").split("/")
        group, option = "/".join(wanted[:-1]), wanted[-1]
        options = list(error.options or [])
        if extra := EXTRAS.get((group, option)):
            return needs_extra(group, option, extra)
        if not group or not options:
            return ConfigError(group or "config name", option, "there is no such config")
        return ConfigError(group, option, f"must be one of {', '.join(options)}.{nearest(option, options)}")
    if isinstance(error, OverrideParseException):
        return ConfigError(error.override, None, "must be key=value, with balanced brackets and quotes")
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found[1]
        given = (item.lstrip("+~").partition("=") for item in overrides)
        value = next((value for name, _, value in given if name == key), None)
        known = known_keys(overrides)
        same = [name for name in known if name.rpartition(".")[2] == key]  # `lr` is nearest to `optimizer.lr`
        near = f" Did you mean '{min(same, key=len)}'?" if same else nearest(key, known)
        return ConfigError(key, value, f"there is no such key.{near}")
    if found := re.search(r"Could not (?:override|delete from config)[. ]*'?([\w.@/]+)'?", text):
        return ConfigError(found[1], None, f"there is no such key or group.{nearest(found[1], GROUPS)}")
    if found := re.search(r"In '([^']+)': .*\bfull_key: ([\w.]+).*\bobject_type=(\w+)", text, re.DOTALL):
        file, key, schema = found.groups()
        chosen = next(
            (
                f"{group}={name}"
                for group, all in SCHEMAS.items()
                for name, one in all.items()
                if one.__name__ == schema
            ),
            schema,
        )
        return ConfigError(key, None, f"is set by {file.replace('/', '=', 1)}, and {chosen} has no such key")
    cause = error.__cause__
    if found := re.search(r"Error merging override ([^=\s]+)=?(.*)", text):
        reason = str(cause).splitlines()[0] if cause else text
        return ConfigError(found[1], found[2] or None, _plain_reason(reason))
    if full_key := getattr(error, "full_key", None):
        return ConfigError(str(full_key), None, _plain_reason(text.splitlines()[0]))
    lines = [line.strip() for line in [*text.splitlines(), *str(cause or "").splitlines()] if line.strip()]
    reason = " ".join(dict.fromkeys(lines[:4])) or type(error).__name__
    own = [item for item in overrides if re.match(r"[+~]*hydra[./=]", item)]  # the others were composed without it
    if own and not any(item.lstrip("+~").partition("=")[0] in reason for item in own):
        reason = f"{' '.join(own)}: {reason}"
    return UserError(reason)


def _plain_reason(reason: str) -> str:
    """OmegaConf's words for a wrong type in ours."""
    if found := re.search(r"Value '(.*)' of type '(\w+)' could not be converted to (\w+)", reason):
        kind = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false"}.get(found[3], found[3])
        return f"must be {kind}"
    if "is not a ListConfig" in reason:
        return "must be a list, such as [a,b]"
    return reason[0].lower() + reason[1:]


def known_keys(overrides: Sequence[str]) -> list[str]:
    """Every key of the config that the group choices among the overrides make."""
    choices = [item for item in overrides if re.fullmatch(r"\+?[\w/@.]+=[\w/]+", item)]
    for chosen in (choices, []):
        groups = [item for item in chosen if item.split("=")[0] in (*GROUPS, "experiment")]
        try:
            node = compose_node(groups)
        except UserError:
            continue
        keys = _dotted_keys(OmegaConf.to_container(node))
        return [*(key for key in keys if not key.endswith("_target_")), *GROUPS]
    return list(GROUPS)


def _dotted_keys(container: Any, prefix: str = "") -> list[str]:
    if not isinstance(container, dict):
        return []
    keys = []
    for key, value in container.items():
        keys += [f"{prefix}{key}", *_dotted_keys(value, f"{prefix}{key}.")]
    return keys
