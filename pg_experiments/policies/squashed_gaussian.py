"""Gaussian policy inside finite bounds: the hyperbolic tangent of a normal number, with its exact log-probability."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.envs.interface import EnvSpec
from pg_experiments.policies.bounds import Bounds
from pg_experiments.policies.convolution import Convolutions
from pg_experiments.policies.distributions import DiagonalGaussian
from pg_experiments.policies.gaussian import GaussianHead, box_of
from pg_experiments.policies.head import HeadPolicy
from pg_experiments.policies.networks import Parameters

WIDEST, NODES = 6.4, 33  # of the trapezoidal rule over a standard normal number, for the entropy


def log_slope(x: Tensor) -> Tensor:
    """log tanh'(x) = log(1 - tanh² x) = 2 (log 2 - |x| - log(1 + exp(-2 |x|))), without cancellation for large x."""
    magnitude = x.abs()
    return 2 * (math.log(2) - magnitude - torch.log1p(torch.exp(-2 * magnitude)))


@dataclass(frozen=True)
class TanhGaussian:
    """a = tanh(x) with x = mean + std · noise, each dimension by itself; `sample` gives x, and `log_prob` takes it.

    Keeping x instead of a needs no artanh, which overflows near the bounds.

    Source: Haarnoja, Zhou, Abbeel and Levine (2018), arXiv:1801.01290, appendix C.

    Attributes:
        normal: of x.
    """

    normal: DiagonalGaussian

    @staticmethod
    def draw_noise(
        generator: Generator, shape: tuple[int, ...], size: int, dtype: torch.dtype
    ) -> Float[Tensor, "*shape size"]:
        """Standard normal noise: what `sample` takes."""
        return DiagonalGaussian.draw_noise(generator, shape, size, dtype)

    def sample(self, noise: Float[Tensor, "runs samples action"]) -> Float[Tensor, "runs samples action"]:
        """x, the number before the hyperbolic tangent."""
        return self.normal.sample(noise)

    def log_prob(self, action: Float[Tensor, "runs samples action"]) -> Float[Tensor, "runs samples"]:
        """Log-density of tanh(x): log Normal(x) - Σᵢ log(1 - tanh² xᵢ)."""
        return self.normal.log_prob(action) - log_slope(action).sum(-1)

    def entropy(self) -> Float[Tensor, "runs samples"]:
        """H(x) + Σᵢ E[log(1 - tanh² xᵢ)], in nats; the mean by the trapezoidal rule with 33 nodes.

        Its error is below 1e-9 for std up to 1, 1e-5 up to 2 and 1e-3 up to 3.
        """
        nodes = torch.linspace(-WIDEST, WIDEST, NODES, dtype=self.normal.mean.dtype)
        weights = torch.exp(-0.5 * nodes.square()) * (2 * WIDEST / (NODES - 1) / math.sqrt(2 * math.pi))
        x = self.normal.mean[..., None] + self.normal.log_std.exp()[..., None] * nodes
        return self.normal.entropy() + (log_slope(x) * weights).sum(-1).sum(-1)

    def kl(self, other: "TanhGaussian") -> Float[Tensor, "runs samples"]:
        """That of the normal numbers: the hyperbolic tangent is one to one."""
        return self.normal.kl(other.normal)

    def mode(self) -> Float[Tensor, "runs samples action"]:
        """The x of the median of a, as everybody plays it: the mean before the hyperbolic tangent.

        The density of a has its maximum elsewhere, and for std above 0.71 near a bound for whatever mean.
        """
        return self.normal.mode()


@dataclass(frozen=True)
class SquashedGaussianHead:
    """Of a Gaussian head, with the hyperbolic tangent behind it; see `SquashedGaussian`."""

    gaussian: GaussianHead

    @property
    def output_size(self) -> int:
        return self.gaussian.output_size

    def first_output(self, runs: int, dtype: torch.dtype) -> Float[Tensor, "runs outputs"]:
        return self.gaussian.first_output(runs, dtype)

    def init(self, runs: int, dtype: torch.dtype) -> Parameters:
        return self.gaussian.init(runs, dtype)

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples outputs"]) -> TanhGaussian:
        return TanhGaussian(self.gaussian.distribution(parameters, output))

    @property
    def noise_size(self) -> int:
        return self.gaussian.noise_size

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape action"]:
        return self.gaussian.draw_noise(generator, shape, dtype)

    def env_action(self, action: Float[Tensor, "*samples action"]) -> Float[Tensor, "*samples action"]:
        """(low + high) / 2 + tanh(x) · (high - low) / 2."""
        return self._bounds(torch.tanh(action))

    @property
    def sure(self) -> tuple[str, str]:
        return "std", "standard deviation of the sampled number, before the hyperbolic tangent"

    def how_sure(self, distribution: TanhGaussian) -> Float[Tensor, "runs samples numbers"]:
        return distribution.normal.log_std.exp().expand_as(distribution.normal.mean)

    @cached_property
    def _bounds(self) -> Bounds:
        return Bounds(self.gaussian.actions)


class SquashedGaussian(HeadPolicy):
    """π(a | s): a = tanh(x), x ~ Normal(mean(s), std²), on a scale where [-1, 1] spans the environment's bounds.

    Nothing is clipped, and the log-probability is that of the action itself. Its gradient is that of the Gaussian
    policy: the hyperbolic tangent has no parameters. What differs is the action, the log-probability and the entropy,
    which, other than the Gaussian's, has a maximum: actions near both bounds.

    Source: Haarnoja et al. (2018), arXiv:1801.01290, appendix C.

    Args:
        hidden_sizes, activation, convolutions: of the network, see `HeadPolicy`.
        state_dependent_std, fixed_std: of x, as for `Gaussian`.
        initial_std: standard deviation of x at the start, per run, > 0.
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden_sizes: Sequence[int],
        activation: str,
        state_dependent_std: bool,
        fixed_std: bool,
        initial_std: Float[Tensor, " runs"],
        convolutions: Convolutions | None = None,
    ) -> None:
        head = SquashedGaussianHead(GaussianHead(box_of(spec), state_dependent_std, fixed_std, initial_std))
        super().__init__(spec, hidden_sizes, activation, head, convolutions)
