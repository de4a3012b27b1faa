"""`env.backend`: which program steps an environment, and what `auto` takes. Imports no torch; see `config.py`.

    native   the package's own tensors, all copies of all runs at once
    envpool  EnvPool's C++ (extra `[envpool]`)
    sync     Gymnasium's environments, one after the other in this process
    async    Gymnasium's environments, in a process per physical core

`auto` takes the first of `native`, `envpool` and `sync` that there is. EnvPool it takes only for the ids of `SAME`: of
those that `tests/test_envpool_is_gymnasium.py` has found to be the same task as Gymnasium's.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple

from pg_experiments.env_config import (
    BACKENDS,
    GYMNASIUM_TASKS,
    AcrobotConfig,
    CartPoleConfig,
    EnvConfig,
    GymnasiumConfig,
    MountainCarConfig,
    MountainCarContinuousConfig,
    PendulumConfig,
)
from pg_experiments.errors import ConfigError, needs_extra

KEY = "env.backend"
NATIVE = {  # by the Gymnasium id of the same task: the option of `env`, and its class
    "CartPole-v1": ("cartpole", CartPoleConfig._target_),
    "Pendulum-v1": ("pendulum", PendulumConfig._target_),
    "Acrobot-v1": ("acrobot", AcrobotConfig._target_),
    "MountainCar-v0": ("mountain_car", MountainCarConfig._target_),
    "MountainCarContinuous-v0": ("mountain_car_continuous", MountainCarContinuousConfig._target_),
}
DIFFERENT = {  # in EnvPool from what they are in Gymnasium
    "Pendulum-v1": "there the angle moves by the speed from before it is limited to 8 rad/s",
}
SAME = tuple(name for name in (*NATIVE, *GYMNASIUM_TASKS.values()) if name not in DIFFERENT)


class Choice(NamedTuple):
    """What `auto` takes, and why, in words."""

    backend: str
    why: str


def automatic(env: Mapping[str, Any]) -> Choice:
    """What `auto` takes for an environment's config on this machine."""
    if not _is_gymnasium(env):
        return Choice("native", "the environment is native")
    name = env["id"]
    if name not in SAME:
        return Choice("sync", f"{name} is none of the ids that are known to be the same in EnvPool")
    if env.get("kwargs"):
        return Choice("sync", "env.kwargs are for gymnasium.make")
    if env.get("action_mask"):
        return Choice("sync", "EnvPool gives no action masks")
    if not installed():
        return Choice("sync", "EnvPool is not installed: pip install 'pg_experiments[envpool]'")
    return Choice("envpool", f"{name} is the same in EnvPool, which is installed")


def installed() -> bool:
    """Whether there is EnvPool."""
    return find_spec("envpool") is not None


def resolved(env: Any) -> Any:
    """An environment's config with the backend that is taken in the place of `auto`."""
    if _items(env).get("backend") != "auto":
        return env
    backend = automatic(_items(env)).backend
    return replace(env, backend=backend) if isinstance(env, EnvConfig) else {**env, "backend": backend}


def taken(env: Any) -> str:
    """The backend that steps a config's environment."""
    return str(_items(resolved(env))["backend"])


def described(env: Any) -> str:
    """One line: the backend of a resolved config, and why it is that one."""
    backend, choice = taken(env), automatic(_items(env))
    why = choice.why if backend == choice.backend else f"as given; auto would take {choice.backend} here"
    other = DIFFERENT.get(str(gymnasium_id(env))) if backend == "envpool" else None
    return f"{KEY}={backend}: {why}" + (f" (this is not Gymnasium's task: {other})" if other else "")


def gymnasium_id(env: Any) -> str | None:
    """The Gymnasium id of an environment that another backend than `native` is to step; None: it is native.

    Raises:
        ConfigError: when there is no such backend for this environment, or its extra is missing.
    """
    items = _items(resolved(env))  # a config that was not composed may say `auto`
    backend, target = items["backend"], items["_target_"]
    own = next((name for name, (_, native) in NATIVE.items() if native == target), None)
    name = items["id"] if _is_gymnasium(items) else own
    if backend == "native" and _is_gymnasium(items):
        others = ", ".join(other for other in BACKENDS if other != backend)
        hint = f" Did you mean 'env={NATIVE[name][0]}'?" if name in NATIVE else ""
        raise ConfigError(KEY, backend, f"there is no native {name} here; must be one of {others}.{hint}")
    if backend == "native":
        return None
    if name is None:
        raise ConfigError(KEY, backend, f"{target.rpartition('.')[2]} is native only; must be one of auto, native")
    if backend == "envpool" and items.get("action_mask"):
        raise ConfigError(
            KEY, backend, "gives no action masks (env.action_mask=true); must be one of auto, sync, async"
        )
    if backend == "envpool" and not installed():
        raise needs_extra(KEY, backend, "envpool")
    return str(name)


def _is_gymnasium(env: Mapping[str, Any]) -> bool:
    return bool(env["_target_"] == GymnasiumConfig._target_)


def _items(env: Any) -> dict[str, Any]:
    return {item.name: getattr(env, item.name) for item in fields(env)} if is_dataclass(env) else dict(env)
