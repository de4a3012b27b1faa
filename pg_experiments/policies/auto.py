"""`policy=auto`: the policy that the action space asks for."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from pg_experiments.envs.interface import BoxActions, EnvSpec
from pg_experiments.policies.fitting import described
from pg_experiments.policies.gaussian import Gaussian
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.softmax import Softmax, TabularSoftmax


def choice(spec: EnvSpec) -> str:
    """The option that `policy=auto` stands for.

    Real numbers: `gaussian`, which needs no bounds. One of several actions: `tabular_softmax` where the states can be
    counted, and else `softmax`.
    """
    if isinstance(spec.actions, BoxActions):
        return "gaussian"
    return "tabular_softmax" if spec.num_states else "softmax"


def reason(spec: EnvSpec) -> str:
    """The choice and why, in one line."""
    return f"policy=auto: {choice(spec)}, because the environment has {described(spec)}"


def auto(spec: EnvSpec, hidden_sizes: Sequence[int], activation: str, initial_std: Float[Tensor, " runs"]) -> Policy:
    """The policy of `choice(spec)`.

    Args:
        hidden_sizes, activation: of its network, if it has one.
        initial_std: if it is a Gaussian; see there.
    """
    chosen = choice(spec)
    if chosen == "gaussian":
        return Gaussian(spec, hidden_sizes, activation, False, initial_std)
    return TabularSoftmax(spec) if chosen == "tabular_softmax" else Softmax(spec, hidden_sizes, activation)
