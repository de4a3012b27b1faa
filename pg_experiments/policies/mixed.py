"""Policy whose action has parts with a distribution each: a Tuple or Dict of spaces, or the dimensions of a box."""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from pg_experiments.envs.interface import (
    DiscreteActions,
    EnvSpec,
    MultiBinaryActions,
    MultiDiscreteActions,
    Part,
)
from pg_experiments.errors import ConfigError
from pg_experiments.policies.bernoulli import bernoulli_head
from pg_experiments.policies.beta import beta_head
from pg_experiments.policies.convolution import Convolutions
from pg_experiments.policies.fitting import FITS, described_actions, option_for, parts_of
from pg_experiments.policies.gaussian import GaussianHead
from pg_experiments.policies.head import Head, HeadPolicy
from pg_experiments.policies.joint import JointHead
from pg_experiments.policies.multi_categorical import multi_categorical_head
from pg_experiments.policies.softmax import softmax_head
from pg_experiments.policies.squashed_gaussian import SquashedGaussianHead
from pg_experiments.policies.von_mises import von_mises_head


class Mixed(HeadPolicy):
    """π(a | s) = Πₖ πₖ(aₖ | s): one network gives the numbers of all parts, which are independent given s.

    The parts are those of a Tuple or Dict in Gymnasium's order, nested ones one after the other, or the dimensions of
    continuous actions, such as an angle and a length.

    Args:
        hidden_sizes, activation, convolutions: of the network, see `HeadPolicy`.
        parts: a name for each part, such as `[von_mises, beta]`; none: as `policy=auto` would choose.
        initial_std: of Gaussian and squashed Gaussian parts, per run, > 0.
        initial_shape: of Beta parts, per run, > 1.
        initial_concentration: of von Mises parts, per run, > 0.

    Raises:
        ConfigError: for a number of names other than that of the parts, or a name that does not fit its part.
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden_sizes: Sequence[int],
        activation: str,
        parts: Sequence[str],
        initial_std: Float[Tensor, " runs"],
        initial_shape: Float[Tensor, " runs"],
        initial_concentration: Float[Tensor, " runs"],
        convolutions: Convolutions | None = None,
    ) -> None:
        actions = parts_of(spec.actions)
        names = parts or [option_for(replace(spec, actions=part, num_states=None)) for part in actions]
        if len(names) != len(actions):
            raise ConfigError("policy.parts", list(names), f"must name {len(actions)} parts: {_in_words(actions)}")
        heads: list[Head] = []
        for place, (name, part) in enumerate(zip(names, actions, strict=True)):
            _check_part(place, name, replace(spec, actions=part))
            heads.append(_head(name, part, initial_std, initial_shape, initial_concentration))
        super().__init__(spec, hidden_sizes, activation, JointHead(tuple(heads), actions), convolutions)


def _check_part(place: int, name: str, spec: EnvSpec) -> None:
    if not FITS[name].fits(spec):
        fitting = [option for option, fit in FITS.items() if fit.of_a_part and fit.fits(spec)]
        has = described_actions(spec.actions)
        problem = f"needs {FITS[name].needs}, but this part has {has}; fitting: {', '.join(fitting)}"
        raise ConfigError(f"policy.parts[{place}]", name, problem)


def _in_words(actions: Sequence[Part]) -> str:
    return ", ".join(described_actions(part) for part in actions)


def _head(name: str, actions: Part, std: Tensor, shape: Tensor, concentration: Tensor) -> Head:
    """The head of one part, whose name fits it."""
    if isinstance(actions, DiscreteActions):
        return softmax_head(actions)
    if isinstance(actions, MultiDiscreteActions):
        return multi_categorical_head(actions)
    if isinstance(actions, MultiBinaryActions):
        return bernoulli_head(actions)
    if name == "beta":
        return beta_head(actions, shape)
    if name == "von_mises":
        return von_mises_head(actions, concentration)
    gaussian = GaussianHead(actions, False, False, std)
    return SquashedGaussianHead(gaussian) if name == "squashed_gaussian" else gaussian
