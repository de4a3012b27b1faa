"""Policy-gradient experiments, composed by Hydra, in which a whole sweep of runs is one tensor program.

Example:
    >>> from pg_experiments import compose
    >>> compose("policy=gaussian", "env=pendulum", "seed=3").env.num_envs
    64
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pg_experiments.composition import compose
    from pg_experiments.errors import ConfigError, UserError
    from pg_experiments.policies.module import load_policy
    from pg_experiments.results import RunResult
    from pg_experiments.training import Interrupted, train

from pg_experiments.envs.registration import register as _register_gymnasium_envs

__version__ = "0.1.0"
__all__ = ["ConfigError", "Interrupted", "RunResult", "UserError", "compose", "load_policy", "train"]

_HOMES = {
    "compose": "composition",
    "ConfigError": "errors",
    "UserError": "errors",
    "load_policy": "policies.module",
    "RunResult": "results",
    "Interrupted": "training",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that a command line's `--help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


_register_gymnasium_envs()
