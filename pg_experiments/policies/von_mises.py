"""Von Mises policy for angles: periodic, so that no direction is far from its neighbours, and exactly sampled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.envs.interface import BoxActions, EnvSpec
from pg_experiments.policies.bounds import Bounds
from pg_experiments.policies.convolution import Convolutions
from pg_experiments.policies.distributions import DiagonalGaussian
from pg_experiments.policies.gaussian import box_of
from pg_experiments.policies.head import HeadPolicy
from pg_experiments.policies.plain_heads import PairHead

NODES, NEWTON_STEPS = 24, 8
WIDEST = 9.0  # standard deviations; beyond lies a probability of 1e-19


@dataclass(frozen=True)
class VonMises:
    """Independent angles with density exp(κ cos(θ - μ)) / (2π I₀(κ)), by the natural parameters κ cos μ and κ sin μ.

    Source: Mardia and Jupp (2000), "Directional Statistics", section 3.5.4.

    Attributes:
        x, y: κ cos μ and κ sin μ of each angle, any real numbers: the direction is μ, the length the concentration κ.
    """

    x: Float[Tensor, "runs samples action"]
    y: Float[Tensor, "runs samples action"]

    @staticmethod
    def draw_noise(
        generator: Generator, shape: tuple[int, ...], size: int, dtype: torch.dtype
    ) -> Float[Tensor, "*shape size"]:
        """Standard normal noise: what `sample` takes."""
        return DiagonalGaussian.draw_noise(generator, shape, size, dtype)

    def sample(self, noise: Float[Tensor, "runs samples action"]) -> Float[Tensor, "runs samples action"]:
        """μ + F⁻¹(Φ(noise)), in [-π, π], with the inverse F⁻¹ of the distribution function around μ, see `quantile`."""
        deviation = quantile(self.concentration.detach(), noise).to(self.x.dtype)
        angle = self.mode() + deviation
        return (angle - 2 * math.pi * torch.floor((angle + math.pi) / (2 * math.pi))).clamp(-math.pi, math.pi)

    def log_prob(self, action: Float[Tensor, "runs samples action"]) -> Float[Tensor, "runs samples"]:
        """Σᵢ κ cos(θ - μ) - log 2π I₀(κ)."""
        each = self.x * torch.cos(action) + self.y * torch.sin(action) - self.concentration
        return (each - self._log_norm).sum(-1)

    def entropy(self) -> Float[Tensor, "runs samples"]:
        """Σᵢ log 2π I₀(κ) - κ I₁(κ) / I₀(κ), in nats."""
        kappa = self.concentration
        return (self._log_norm + kappa * (1 - mean_length(kappa))).sum(-1)

    def kl(self, other: "VonMises") -> Float[Tensor, "runs samples"]:
        """Σᵢ log I₀(κ') - log I₀(κ) + I₁(κ) / I₀(κ) · (κ - κ' cos(μ - μ')); ' is `other`."""
        kappa = self.concentration
        along = (self.x * (self.x - other.x) + self.y * (self.y - other.y)) / kappa
        log_norms = other._log_norm - self._log_norm + other.concentration - kappa
        return (log_norms + mean_length(kappa) * along).sum(-1)

    def mode(self) -> Float[Tensor, "runs samples action"]:
        """μ in [-π, π]: 2 arctan of y / (κ + x), or of (κ - x) / y where that is more precise."""
        x, y, kappa = self.x, self.y, self.concentration
        right, left = y / (kappa + x), (kappa - x) / torch.where(y == 0, torch.finfo(y.dtype).tiny, y)
        return 2 * torch.atan(torch.where(x >= 0, right, left))

    @cached_property
    def concentration(self) -> Float[Tensor, "runs samples action"]:
        """κ = √(x² + y²), with a gradient at 0 as well."""
        return (self.x.square() + self.y.square() + torch.finfo(self.x.dtype).tiny).sqrt()

    @cached_property
    def _log_norm(self) -> Float[Tensor, "runs samples action"]:
        """log 2π I₀(κ) - κ."""
        return torch.log(torch.special.i0e(self.concentration)) + math.log(2 * math.pi)


def mean_length(kappa: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """I₁(κ) / I₀(κ) = E[cos(θ - μ)]."""
    return torch.special.i1e(kappa) / torch.special.i0e(kappa)


def quantile(kappa: Float[Tensor, "*any"], noise: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """F⁻¹(Φ(noise)) for F(θ) = ½ + ∫₀^θ exp(κ (cos t - 1)) dt / (2π e^{-κ} I₀(κ)), θ in [-π, π], in float64.

    By symmetry only θ ≥ 0 is sought, with 2 F(θ) - 1 = erf(|noise| / √2). The start is the θ whose 2 √κ sin(θ / 2) is
    the quantile of a normal number cut off at 2 √κ, which is exact for large κ; then come eight steps of Newton's,
    each halving a bracket where it would leave it. The integral is Gauss and Legendre's with 24 nodes. Exact: what is
    left of F(θ) - Φ(noise) is below 1e-12 for every κ, so one number makes one angle, with no rejection.
    """
    kappa = kappa.double().clamp(min=1e-6)  # below, uniform to 1e-6 / π
    wanted = torch.erf(noise.detach().double().abs() * math.sqrt(0.5))
    nodes, weights = (part.to(kappa.device) for part in _rule())
    root = torch.sqrt(2 * kappa)
    low, high = torch.zeros_like(wanted), 2 * torch.asin((0.5 * WIDEST / torch.sqrt(kappa)).clamp(max=1.0))
    normal = torch.erfinv(wanted * torch.erf(root)) / root
    angle = (2 * torch.asin(normal.clamp(max=1.0))).minimum(high)
    norm = 1 / (math.pi * torch.special.i0e(kappa))
    for _ in range(NEWTON_STEPS):
        sine = torch.sin(angle[..., None] * (0.5 * nodes))
        inside = (torch.exp(-2 * kappa[..., None] * sine.square()) * weights).sum(-1) * angle * norm
        density = torch.exp(-2 * kappa * torch.sin(0.5 * angle).square()) * norm
        low, high = torch.where(inside < wanted, angle, low), torch.where(inside < wanted, high, angle)
        step = angle + (wanted - inside) / density
        angle = torch.where((step >= low) & (step <= high), step, 0.5 * (low + high))
    return torch.copysign(angle, noise)


@cache
@torch.inference_mode(False)  # it is kept
def _rule() -> tuple[Tensor, Tensor]:
    """Gauss and Legendre's nodes and weights on [0, 1]."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(NODES))
    return 0.5 * (nodes + 1), 0.5 * weights


def von_mises_head(actions: BoxActions, initial_concentration: Float[Tensor, " runs"]) -> PairHead:
    """The network gives κ cos μ and κ sin μ; -π and π are the bounds, which are one direction. See `VonMisesPolicy`."""
    first = (initial_concentration, torch.zeros_like(initial_concentration))
    about = (
        "concentration",
        "of the angle in radians around its direction: 0 is uniform; nearly 1 / variance of a large one",
    )
    return PairHead(actions, first, VonMises, VonMises.draw_noise, _to_unit, about, _concentration)


def _to_unit(action: Float[Tensor, "*samples action"]) -> Float[Tensor, "*samples action"]:
    return action / math.pi


def _concentration(distribution: VonMises, bounds: Bounds) -> Float[Tensor, "runs samples action"]:
    return distribution.concentration


class VonMisesPolicy(HeadPolicy):
    """π(θ | s) with θ ~ VonMises(μ(s), κ(s)): every dimension is an angle, its bounds one direction.

    The network gives the natural parameters κ cos μ and κ sin μ, so μ has no seam, and the score is bounded.

    Source: Mardia and Jupp (2000), section 3.5.4.

    Args:
        hidden_sizes, activation, convolutions: of the network, see `HeadPolicy`.
        initial_concentration: κ at the start, per run, > 0, with the direction in the middle between the bounds.
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden_sizes: Sequence[int],
        activation: str,
        initial_concentration: Float[Tensor, " runs"],
        convolutions: Convolutions | None = None,
    ) -> None:
        super().__init__(
            spec, hidden_sizes, activation, von_mises_head(box_of(spec), initial_concentration), convolutions
        )
