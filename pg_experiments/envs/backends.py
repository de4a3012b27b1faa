"""The environment of a config, stepped by the backend that it names."""

from collections.abc import Callable
from typing import Any

from pg_experiments.backend_config import gymnasium_id, taken
from pg_experiments.envs.envpool_env import EnvPoolEnv
from pg_experiments.envs.gymnasium_adapter import GymnasiumEnv
from pg_experiments.envs.gymnasium_processes import GymnasiumProcesses
from pg_experiments.envs.interface import Env

CLASSES: dict[str, Callable[..., Env]] = {
    "envpool": EnvPoolEnv,
    "sync": GymnasiumEnv,
    "async": GymnasiumProcesses,
}


def not_native(items: dict[str, Any]) -> Env | None:
    """The environment of a config when another backend than `native` steps it, otherwise None.

    Args:
        items: of the config, with its backend resolved.

    Raises:
        ConfigError: when there is no such backend for it, its extra is missing, or the environment cannot be made.
    """
    name = gymnasium_id(items)
    if name is None:
        return None
    masked = {"action_mask": True} if items.get("action_mask") else {}  # EnvPool has none
    return CLASSES[taken(items)](name, items.get("kwargs") or {}, items["max_episode_steps"], **masked)
