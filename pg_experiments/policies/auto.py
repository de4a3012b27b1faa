"""`policy=auto`: the policy that the action space asks for."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from pg_experiments.envs.interface import EnvSpec
from pg_experiments.policies.bernoulli import BernoulliPolicy
from pg_experiments.policies.convolution import Convolutions
from pg_experiments.policies.fitting import described, option_for
from pg_experiments.policies.gaussian import Gaussian
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.mixed import Mixed
from pg_experiments.policies.multi_categorical import MultiCategoricalPolicy
from pg_experiments.policies.softmax import Softmax, TabularSoftmax


def reason(spec: EnvSpec) -> str:
    """The choice and why, in one line."""
    return f"policy=auto: {option_for(spec)}, because the environment has {described(spec)}"


def auto(
    spec: EnvSpec,
    hidden_sizes: Sequence[int],
    activation: str,
    initial_std: Float[Tensor, " runs"],
    convolutions: Convolutions | None = None,
) -> Policy:
    """The policy that `option_for(spec)` names.

    Args:
        hidden_sizes, activation, convolutions: of its network, if it has one.
        initial_std: of Gaussian actions; see there.
    """
    match option_for(spec):
        case "gaussian":
            return Gaussian(spec, hidden_sizes, activation, False, initial_std, convolutions=convolutions)
        case "tabular_softmax":
            return TabularSoftmax(spec)
        case "multi_categorical":
            return MultiCategoricalPolicy(spec, hidden_sizes, activation, convolutions)
        case "bernoulli":
            return BernoulliPolicy(spec, hidden_sizes, activation, convolutions)
        case "mixed":  # whose parts are Gaussian where they are real
            return Mixed(spec, hidden_sizes, activation, [], initial_std, initial_std, initial_std, convolutions)
        case _:
            return Softmax(spec, hidden_sizes, activation, convolutions)
