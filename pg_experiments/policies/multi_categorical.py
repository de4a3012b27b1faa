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
from pg_experiments.policies.plain_heads import LogitsHead


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


def multi_categorical_head(actions: MultiDiscreteActions) -> LogitsHead:
    """The logits of all choices side by side; see `MultiCategoricalPolicy`."""

    def make(logits: Float[Tensor, "runs samples logits"]) -> MultiCategorical:
        return MultiCategorical(logits, actions.counts)

    about = ("probabilities", "of the options of every choice, side by side")
    return LogitsHead(sum(actions.counts), make, MultiCategorical.draw_noise, about, MultiCategorical.probabilities)


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
        super().__init__(spec, hidden_sizes, activation, multi_categorical_head(spec.actions), convolutions)
