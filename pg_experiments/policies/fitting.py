"""Which policies can act in which action space, and what is said of one that cannot."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from pg_experiments.config import SCHEMAS
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec
from pg_experiments.errors import ConfigError


class Fit(NamedTuple):
    """What a policy needs, in words, and whether a spec has it."""

    needs: str
    fits: Callable[[EnvSpec], bool]


def _discrete(spec: EnvSpec) -> bool:
    return isinstance(spec.actions, DiscreteActions)


def _box(spec: EnvSpec) -> bool:
    return isinstance(spec.actions, BoxActions)


def _bounded(spec: EnvSpec) -> bool:
    actions = spec.actions
    return isinstance(actions, BoxActions) and all(map(math.isfinite, (*actions.low, *actions.high)))


BOUNDED = "continuous actions with finite bounds"
FITS = {
    "softmax": Fit("discrete actions", _discrete),
    "tabular_softmax": Fit(
        "discrete actions and finitely many states", lambda spec: _discrete(spec) and bool(spec.num_states)
    ),
    "gaussian": Fit("continuous actions", _box),
    "squashed_gaussian": Fit(BOUNDED, _bounded),
    "beta": Fit(BOUNDED, _bounded),
    "von_mises": Fit(f"{BOUNDED}, all of them angles", _bounded),
    "auto": Fit("any actions", lambda spec: True),
}


def check_policy_fits(config: Any, spec: EnvSpec) -> None:
    """Raise a `ConfigError` that names the fitting policies when one of ours cannot act in this environment."""
    name = next((option for option, schema in SCHEMAS["policy"].items() if type(config) is schema), None)
    if name is None or FITS[name].fits(spec):
        return
    fitting = [option for option, fit in FITS.items() if fit.fits(spec)]
    raise ConfigError(
        "policy",
        name,
        f"needs {FITS[name].needs}, but this environment has {described(spec)}; fitting: {', '.join(fitting)}",
    )


def described(spec: EnvSpec) -> str:
    """Its actions and states in words, such as `2 discrete actions, continuous observations`."""
    actions = spec.actions
    if isinstance(actions, DiscreteActions):
        text = f"{actions.count} discrete actions"
    else:
        unbounded = "" if _bounded(spec) else " without finite bounds"
        text = f"{len(actions.low)} continuous action{'s' if len(actions.low) > 1 else ''}{unbounded}"
    return f"{text}, {spec.num_states} states" if spec.num_states else f"{text}, continuous observations"
