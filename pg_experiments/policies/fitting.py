"""Which policies can act in which action space, and what is said of one that cannot."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from pg_experiments.config import SCHEMAS
from pg_experiments.envs.interface import (
    Actions,
    BoxActions,
    DiscreteActions,
    EnvSpec,
    MixedActions,
    MultiBinaryActions,
    MultiDiscreteActions,
    Part,
)
from pg_experiments.errors import ConfigError


class Fit(NamedTuple):
    """What a policy needs, in words, whether a spec has it, and whether the policy can be a part of a mixed one."""

    needs: str
    fits: Callable[[EnvSpec], bool]
    of_a_part: bool = True


def _discrete(spec: EnvSpec) -> bool:
    return isinstance(spec.actions, DiscreteActions)


def _box(spec: EnvSpec) -> bool:
    return isinstance(spec.actions, BoxActions)


def _bounded(spec: EnvSpec) -> bool:
    return isinstance(spec.actions, BoxActions) and _has_bounds(spec.actions)


def _has_bounds(actions: BoxActions) -> bool:
    return all(map(math.isfinite, (*actions.low, *actions.high)))


BOUNDED = "continuous actions with finite bounds"
FITS = {
    "softmax": Fit("discrete actions", _discrete),
    "tabular_softmax": Fit(
        "discrete actions and finitely many states", lambda spec: _discrete(spec) and bool(spec.num_states), False
    ),
    "linear_softmax": Fit("discrete actions", _discrete, of_a_part=False),
    "gaussian": Fit("continuous actions", _box),
    "linear_gaussian": Fit("continuous actions", _box, of_a_part=False),
    "squashed_gaussian": Fit(BOUNDED, _bounded),
    "beta": Fit(BOUNDED, _bounded),
    "von_mises": Fit(f"{BOUNDED}, all of them angles", _bounded),
    "multi_categorical": Fit(
        "several discrete actions at once", lambda spec: isinstance(spec.actions, MultiDiscreteActions)
    ),
    "bernoulli": Fit("switches", lambda spec: isinstance(spec.actions, MultiBinaryActions)),
    "mixed": Fit(
        "an action with parts", lambda spec: isinstance(spec.actions, MixedActions | BoxActions), of_a_part=False
    ),
    "auto": Fit("any actions", lambda spec: True, of_a_part=False),
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


def option_for(spec: EnvSpec) -> str:
    """What `policy=auto` stands for.

    Real numbers: `gaussian`, which needs no bounds. One of several actions: `tabular_softmax` where the states can be
    counted, and else `softmax`. The other kinds have one policy each.
    """
    if isinstance(spec.actions, DiscreteActions):
        return "tabular_softmax" if spec.num_states else "softmax"
    options = {BoxActions: "gaussian", MultiDiscreteActions: "multi_categorical", MultiBinaryActions: "bernoulli"}
    return options.get(type(spec.actions), "mixed")


def parts_of(actions: Actions) -> tuple[Part, ...]:
    """The parts that a mixed policy has a distribution for: those of mixed actions, or the dimensions of a box."""
    if isinstance(actions, MixedActions):
        return actions.parts
    if isinstance(actions, BoxActions):
        return tuple(BoxActions((low,), (high,)) for low, high in zip(actions.low, actions.high, strict=True))
    raise ConfigError("policy", "mixed", f"needs {FITS['mixed'].needs}")


def described(spec: EnvSpec) -> str:
    """Its actions and states in words, such as `2 discrete actions, continuous observations`."""
    text = described_actions(spec.actions)
    return f"{text}, {spec.num_states} states" if spec.num_states else f"{text}, continuous observations"


def described_actions(actions: Actions) -> str:
    """Actions in words, such as `2 discrete actions`."""
    if isinstance(actions, DiscreteActions):
        return f"{actions.count} discrete actions"
    if isinstance(actions, MultiDiscreteActions):
        return f"{len(actions.counts)} discrete actions at once"
    if isinstance(actions, MultiBinaryActions):
        return f"{actions.count} switch{'es' if actions.count > 1 else ''}"
    if isinstance(actions, MixedActions):
        return f"an action of {len(actions.parts)} parts ({', '.join(map(described_actions, actions.parts))})"
    unbounded = "" if _has_bounds(actions) else " without finite bounds"
    return f"{len(actions.low)} continuous action{'s' if len(actions.low) > 1 else ''}{unbounded}"
