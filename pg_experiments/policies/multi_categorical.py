"""Policy for several choices at once (MultiDiscrete), each with a softmax of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from pg_experiments.envs.interface import EnvSpec, MultiDiscreteActions
from pg_experiments.errors import ConfigError
from pg_experiments.policies.convolution import Convolutions
from pg_experiments.policies.distributions import Categorical
from pg_experiments.policies.head import HeadPolicy
from pg_experiments.policies.networks import Parameters


@dataclass(frozen=True)
class MultiCategorical:
    """Independent choices, each `Categorical`: π(a) = Πₖ softmax(logitsₖ)[aₖ].

    Attributes:
        logits: of all choices side by side, any real numbers.
        counts: how many logits each choice has.
    """

    logits: Float[Tensor, "runs samples logits"]
    counts: tuple[int, ...]

    @staticmethod
    def draw_noise(
        generator: Generator, shape: tuple[int, ...], size: int, dtype: torch.dtype
    ) -> Float[Tensor, "*shape size"]:
        """Standard Gumbel noise for every logit: what `sample` takes."""
        return Categorical.draw_noise(generator, shape, size, dtype)

    def sample(self, noise: Float[Tensor, "runs samples logits"]) -> Int64[Tensor, "runs samples choices"]:
        pieces = noise.split(self.counts, -1)
        return torch.stack([part.sample(piece) for part, piece in zip(self._parts, pieces, strict=True)], -1)

    def log_prob(self, action: Int64[Tensor, "runs samples choices"]) -> Float[Tensor, "runs samples"]:
        each = [part.log_prob(own) for part, own in zip(self._parts, action.unbind(-1), strict=True)]
        return torch.stack(each, -1).sum(-1)

    def entropy(self) -> Float[Tensor, "runs samples"]:
        return torch.stack([part.entropy() for part in self._parts], -1).sum(-1)

    def kl(self, other: "MultiCategorical") -> Float[Tensor, "runs samples"]:
        each = [part.kl(another) for part, another in zip(self._parts, other._parts, strict=True)]
        return torch.stack(each, -1).sum(-1)

    def mode(self) -> Int64[Tensor, "runs samples choices"]:
        return torch.stack([part.mode() for part in self._parts], -1)

    def probabilities(self) -> Float[Tensor, "runs samples logits"]:
        """Of every option, those of a choice side by side."""
        return torch.cat([torch.softmax(part, -1) for part in self.logits.split(self.counts, -1)], -1)

    @cached_property
    def _parts(self) -> list[Categorical]:
        return [Categorical(part) for part in self.logits.split(self.counts, -1)]


@dataclass(frozen=True)
class MultiCategoricalHead:
    """The network gives the logits of all choices; see `MultiCategoricalPolicy`."""

    actions: MultiDiscreteActions

    @property
    def output_size(self) -> int:
        return sum(self.actions.counts)

    def first_output(self, runs: int, dtype: torch.dtype) -> Float[Tensor, "runs logits"]:
        return torch.zeros(runs, self.output_size, dtype=dtype)

    def init(self, runs: int, dtype: torch.dtype) -> Parameters:
        return {}

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples logits"]) -> MultiCategorical:
        return MultiCategorical(output, self.actions.counts)

    @property
    def noise_size(self) -> int:
        return self.output_size

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape logits"]:
        return MultiCategorical.draw_noise(generator, shape, self.output_size, dtype)

    def env_action(self, action: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        return action

    @property
    def sure(self) -> tuple[str, str]:
        return "probabilities", "of the options of every choice, side by side"

    def how_sure(self, distribution: MultiCategorical) -> Float[Tensor, "runs samples numbers"]:
        return distribution.probabilities()


class MultiCategoricalPolicy(HeadPolicy):
    """π(a | s) = Πₖ softmax(networkₖ(s))[aₖ]: given the observation, the choices are independent.

    Source: Tavakoli, Pardo and Kormushev (2018), arXiv:1711.08946, section 4, for one network with a branch a choice.

    Args:
        hidden_sizes, activation, convolutions: of the network, see `HeadPolicy`.
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden_sizes: Sequence[int],
        activation: str,
        convolutions: Convolutions | None = None,
    ) -> None:
        if not isinstance(spec.actions, MultiDiscreteActions):
            raise ConfigError("policy", None, "needs several discrete actions at once")
        super().__init__(spec, hidden_sizes, activation, MultiCategoricalHead(spec.actions), convolutions)
