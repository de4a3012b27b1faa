"""Which code a folder may name. Loading one from somebody else imports nothing but this package and `torch.optim`.

`python -m pg_experiments.train` runs what its own command line names. A *saved* config is somebody's file: its
`_target_` may be a class that this package brings for that group, a class of `torch.optim`, or something in a module
that the user names with `--trust`. Imports no torch.
"""

import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from pg_experiments.config import GROUPS, SCHEMAS
from pg_experiments.env_config import GymnasiumConfig
from pg_experiments.errors import ConfigError

MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
TORCH_OPTIMIZER = re.compile(r"torch\.optim(?:\.[A-Za-z_]\w*)+")
HARMLESS_TEXT = re.compile(r"[\w +=,-]*")  # no path, no module:name, no address


class Claim(NamedTuple):
    """A place of a saved config that may be used only when `module` is trusted."""

    key: str
    value: str
    module: str
    why: str


def check_trust(config: Mapping[str, Any], trust: Sequence[str] = ()) -> None:
    """Refuse a saved config that names code, or files for code to open, which the user does not trust.

    Args:
        config: plain values, as `saved_config.read_config` gives them.
        trust: names of packages or modules; what is in them is trusted as well.

    Raises:
        UserError: names the key, what stands there, and the option that would allow it. Nothing was imported.
    """
    for name in trust:
        if not MODULE.fullmatch(name):
            raise ConfigError("--trust", name, "must be the name of a package or module, such as my_package")
    for claim in _claims(config):
        if any(claim.module == name or claim.module.startswith(f"{name}.") for name in trust):
            continue
        if not MODULE.fullmatch(claim.module):
            raise ConfigError(claim.key, claim.value, "must name a class as package.module.Name")
        package = claim.module.partition(".")[0]
        option = f'--trust {package} (in Python trust="{package}")'
        raise ConfigError(claim.key, claim.value, f"{claim.why}; if you trust its code, add {option}")


def modules_to_trust(config: Mapping[str, Any]) -> list[str]:
    """The packages that have to be named with `--trust` when this config is loaded; of the user's own parts, mostly."""
    return list(dict.fromkeys(claim.module.partition(".")[0] for claim in _claims(config)))


def add_loading_options(parser: ArgumentParser) -> None:
    """`--trust` and `--checkpoint`, for a command that loads the policy of a run's folder."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="run this package's code where the run's config names it (repeatable; default: only our own parts)",
    )
    parser.add_argument(
        "--checkpoint", default="last", metavar="NAME", help="last, best or iteration_N (default: last)"
    )


def as_names(trust: str | Sequence[str]) -> tuple[str, ...]:
    """`trust="my_package"` is meant as `trust=("my_package",)`."""
    return (trust,) if isinstance(trust, str) else tuple(trust)


@contextmanager
def imports_from_elsewhere(trust: Sequence[str] = ()) -> Iterator[None]:
    """Let `import` look into the working folder last, or, when nothing is trusted, not at all.

    `python -m` puts the working folder first, and that may be the folder which is loaded, with a `torch.py` in it.
    """
    before = list(sys.path)
    if before and (before[0] == "" or os.path.realpath(before[0]) == os.path.realpath(os.getcwd())):
        sys.path[:] = [*before[1:], *(before[:1] if trust else [])]
    try:
        yield
    finally:
        sys.path[:] = before


def _claims(config: Mapping[str, Any]) -> Iterator[Claim]:
    """Everything in a config that needs trust, in its order."""
    for key, target in _targets(config):
        if not _is_ours(key, target):
            yield Claim(f"{key}._target_", target, target.rpartition(".")[0], "is none of this package's own parts")
    env = config.get("env")
    if isinstance(env, Mapping) and env.get("_target_") == GymnasiumConfig._target_:
        module, colon, _ = str(env.get("id", "")).partition(":")
        if colon:
            yield Claim("env.id", str(env["id"]), module, f"imports the module {module}")
        for key, text in _texts(env.get("kwargs"), "env.kwargs"):  # an environment may open or import what it is told
            if not HARMLESS_TEXT.fullmatch(text):
                yield Claim(key, text, module if colon else "gymnasium", "may name a file or a module")


def _is_ours(key: str, target: str) -> bool:
    """Whether the part at a dotted key may be this class without being trusted."""
    if key in GROUPS and target in {schema._target_ for schema in SCHEMAS[key].values()}:  # type: ignore[attr-defined]
        return target != "???"
    return key.rpartition(".")[2] == "optimizer" and TORCH_OPTIMIZER.fullmatch(target) is not None


def _targets(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every `_target_` at any depth as (key of its part, text); one that is missing is another error's matter."""
    if isinstance(value, Mapping):
        if value.get("_target_", "???") != "???":
            yield key, str(value["_target_"])
        for name, child in value.items():
            yield from _targets(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for child in value:
            yield from _targets(child, key)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield from _texts(child, f"{key}.{name}")
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child, key)
    elif isinstance(value, str):
        yield key, value
