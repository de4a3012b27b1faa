"""Beta policy for bounded continuous actions: unimodal, inside the bounds without clipping, exactly sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from scipy import special
from torch import Generator, Tensor

from pg_experiments import exact
from pg_experiments.envs.interface import BoxActions, EnvSpec
from pg_experiments.policies.bounds import Bounds
from pg_experiments.policies.convolution import Convolutions
from pg_experiments.policies.distributions import DiagonalGaussian
from pg_experiments.policies.gaussian import box_of
from pg_experiments.policies.head import HeadPolicy
from pg_experiments.policies.plain_heads import PairHead


@dataclass(frozen=True)
class Beta:
    """Independent numbers in (0, 1) with density x^(α - 1) (1 - x)^(β - 1) / B(α, β).

    Source: Chou, Maturana and Scherer (2017), "Improving stochastic policy gradients in continuous control with deep
    reinforcement learning using the Beta distribution", eq. 12 to 14.

    Attributes:
        excess_alpha, excess_beta: α - 1 and β - 1 of each dimension, at least 0: where the density is nearly uniform,
            α and β have lost the digits that the mode is made of.
    """

    excess_alpha: Float[Tensor, "runs samples action"]
    excess_beta: Float[Tensor, "runs samples action"]

    @property
    def alpha(self) -> Float[Tensor, "runs samples action"]:
        return 1 + self.excess_alpha

    @property
    def beta(self) -> Float[Tensor, "runs samples action"]:
        return 1 + self.excess_beta

    @staticmethod
    def draw_noise(
        generator: Generator, shape: tuple[int, ...], size: int, dtype: torch.dtype
    ) -> Float[Tensor, "*shape size"]:
        """Standard normal noise: what `sample` takes."""
        return DiagonalGaussian.draw_noise(generator, shape, size, dtype)

    def sample(self, noise: Float[Tensor, "runs samples action"]) -> Float[Tensor, "runs samples action"]:
        """F⁻¹(Φ(noise)), with the inverse F⁻¹ of the regularised incomplete beta function, computed in float64.

        One number makes one action, with no rejection: exact to the precision of the inverse, 1e-15, and of the noise.
        The result is rounded into the open interval (0, 1).
        """
        uniform = torch.special.ndtr(noise.detach().double())
        alpha, beta = (1 + part.detach().double().cpu().numpy() for part in (self.excess_alpha, self.excess_beta))
        found = torch.as_tensor(special.betaincinv(alpha, beta, uniform.cpu().numpy()), dtype=self.excess_alpha.dtype)
        limits = torch.finfo(found.dtype)
        return found.clamp(limits.tiny, 1 - limits.eps / 2)

    def log_prob(self, action: Float[Tensor, "runs samples action"]) -> Float[Tensor, "runs samples"]:
        """Σᵢ (α - 1) log x + (β - 1) log(1 - x) - log B(α, β)."""
        of_alpha, of_beta = self.excess_alpha * torch.log(action), self.excess_beta * torch.log1p(-action)
        return (of_alpha + of_beta - self._log_norm).sum(-1)

    def entropy(self) -> Float[Tensor, "runs samples"]:
        """Σᵢ log B(α, β) - (α - 1) ψ(α) - (β - 1) ψ(β) + (α + β - 2) ψ(α + β), of numbers in (0, 1), in nats."""
        total = torch.digamma(self.alpha + self.beta)
        of_alpha = self.excess_alpha * (total - torch.digamma(self.alpha))
        of_beta = self.excess_beta * (total - torch.digamma(self.beta))
        return (self._log_norm + of_alpha + of_beta).sum(-1)

    def kl(self, other: "Beta") -> Float[Tensor, "runs samples"]:
        """Σᵢ log B(α', β') - log B(α, β) + (α - α')(ψ(α) - ψ(α + β)) + (β - β')(ψ(β) - ψ(α + β)); ' is `other`."""
        total = torch.digamma(self.alpha + self.beta)
        of_alpha = (self.excess_alpha - other.excess_alpha) * (torch.digamma(self.alpha) - total)
        of_beta = (self.excess_beta - other.excess_beta) * (torch.digamma(self.beta) - total)
        return (other._log_norm - self._log_norm + of_alpha + of_beta).sum(-1)

    def mode(self) -> Float[Tensor, "runs samples action"]:
        """(α - 1) / (α + β - 2); ½ where the density is uniform."""
        tiny = torch.finfo(self.excess_alpha.dtype).tiny
        left, right = self.excess_alpha.clamp(min=tiny), self.excess_beta.clamp(min=tiny)
        return left / (left + right)

    def deviation(self) -> Float[Tensor, "runs samples action"]:
        """Standard deviation: √(α β / (α + β + 1)) / (α + β)."""
        total = self.alpha + self.beta
        return (self.alpha * self.beta / (total + 1)).sqrt() / total

    @cached_property
    def _log_norm(self) -> Float[Tensor, "runs samples action"]:
        """log B(α, β), in float64: its terms are large and nearly cancel."""
        alpha, beta = 1 + self.excess_alpha.double(), 1 + self.excess_beta.double()
        log_beta = torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
        return log_beta.to(self.excess_alpha.dtype)


def beta_head(actions: BoxActions, initial_shape: Float[Tensor, " runs"]) -> PairHead:
    """α = 1 + softplus(x), β = 1 + softplus(y); the action to play is low + a · (high - low). See `BetaPolicy`."""
    excess = initial_shape - 1  # of a large one softplus is the number itself, where its exponential overflows
    first = torch.where(excess > 100, excess, torch.log(torch.expm1(excess)))  # the inverse of softplus
    about = ("std", "standard deviation of the sampled action")
    return PairHead(actions, (first, first), _of_outputs, Beta.draw_noise, _to_unit, about, _deviation)


def _of_outputs(x: Float[Tensor, "runs samples action"], y: Float[Tensor, "runs samples action"]) -> Beta:
    return Beta(exact.softplus(x), exact.softplus(y))


def _to_unit(action: Float[Tensor, "*samples action"]) -> Float[Tensor, "*samples action"]:
    return 2 * action - 1


def _deviation(distribution: Beta, bounds: Bounds) -> Float[Tensor, "runs samples action"]:
    return distribution.deviation() * 2 * bounds.scale(distribution.excess_alpha.dtype)


class BetaPolicy(HeadPolicy):
    """π(a | s): a = low + x · (high - low), x ~ Beta(α(s), β(s)) with α, β > 1, so that there is one maximum.

    No action is clipped, so the gradient has none of the bias that clipping a Gaussian's actions gives it near a bound.

    Source: Chou, Maturana and Scherer (2017), section 4.

    Args:
        hidden_sizes, activation, convolutions: of the network, see `HeadPolicy`.
        initial_shape: α and β at the start, per run, > 1; the standard deviation of x is then 1 / (2 √(2 shape + 1)).
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden_sizes: Sequence[int],
        activation: str,
        initial_shape: Float[Tensor, " runs"],
        convolutions: Convolutions | None = None,
    ) -> None:
        super().__init__(spec, hidden_sizes, activation, beta_head(box_of(spec), initial_shape), convolutions)
