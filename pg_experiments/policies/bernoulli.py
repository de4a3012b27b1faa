"""Policy for switches (MultiBinary): each is on with a probability of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from pg_experiments import exact
from pg_experiments.envs.interface import EnvSpec, MultiBinaryActions
from pg_experiments.errors import ConfigError
from pg_experiments.policies.convolution import Convolutions
from pg_experiments.policies.head import HeadPolicy
from pg_experiments.policies.plain_heads import LogitsHead


@dataclass(frozen=True)
class Bernoulli:
    """Independent switches: aᵢ is 1 with probability pᵢ = 1 / (1 + exp(-zᵢ)), and else 0.

    Attributes:
        logits: zᵢ, any real numbers.
    """

    logits: Float[Tensor, "runs samples switches"]

    @staticmethod
    def draw_noise(
        generator: Generator, shape: tuple[int, ...], size: int, dtype: torch.dtype
    ) -> Float[Tensor, "*shape size"]:
        """Uniform in [0, 1): what `sample` takes."""
        return torch.rand(*shape, size, generator=generator, dtype=dtype)

    def sample(self, noise: Float[Tensor, "runs samples switches"]) -> Int64[Tensor, "runs samples switches"]:
        """1 where the noise is below pᵢ."""
        return (noise < exact.sigmoid(self.logits)).long()

    def log_prob(self, action: Int64[Tensor, "runs samples switches"]) -> Float[Tensor, "runs samples"]:
        """Σᵢ log pᵢ where aᵢ is 1, log(1 - pᵢ) where it is 0: -softplus(∓zᵢ), without overflow."""
        return -exact.softplus((1 - 2 * action) * self.logits).sum(-1)

    def entropy(self) -> Float[Tensor, "runs samples"]:
        """Σᵢ -pᵢ log pᵢ - (1 - pᵢ) log(1 - pᵢ)."""
        log_on, log_off = self._log_probs
        return -(log_on.exp() * log_on + log_off.exp() * log_off).sum(-1)

    def kl(self, other: "Bernoulli") -> Float[Tensor, "runs samples"]:
        """Σᵢ pᵢ log(pᵢ / qᵢ) + (1 - pᵢ) log((1 - pᵢ) / (1 - qᵢ))."""
        (log_on, log_off), (other_on, other_off) = self._log_probs, other._log_probs
        return (log_on.exp() * (log_on - other_on) + log_off.exp() * (log_off - other_off)).sum(-1)

    def mode(self) -> Int64[Tensor, "runs samples switches"]:
        return (self.logits > 0).long()

    @cached_property
    def _log_probs(self) -> tuple[Float[Tensor, "runs samples switches"], Float[Tensor, "runs samples switches"]]:
        """Of on and of off; their exponentials have a gradient far out, where that of 1 / (1 + exp(-z)) overflows."""
        return -exact.softplus(-self.logits), -exact.softplus(self.logits)


def bernoulli_head(actions: MultiBinaryActions) -> LogitsHead:
    """A logit for every switch; see `BernoulliPolicy`."""
    about = ("probabilities", "of the switches to be on")
    return LogitsHead(actions.count, Bernoulli, Bernoulli.draw_noise, about, _probabilities)


def _probabilities(distribution: Bernoulli) -> Float[Tensor, "runs samples switches"]:
    return exact.sigmoid(distribution.logits)


class BernoulliPolicy(HeadPolicy):
    """π(a | s) = Πᵢ pᵢ(s)^aᵢ (1 - pᵢ(s))^(1 - aᵢ): given the observation, the switches are independent.

    Source: Williams (1992), section 4, whose Bernoulli units these are.

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
        if not isinstance(spec.actions, MultiBinaryActions):
            raise ConfigError("policy", None, "needs switches")
        super().__init__(spec, hidden_sizes, activation, bernoulli_head(spec.actions), convolutions)
