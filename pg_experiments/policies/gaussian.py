"""Gaussian policy for continuous actions: a network gives the mean; the spread is learned, given by it, or fixed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.envs.interface import BoxActions, EnvSpec
from pg_experiments.errors import ConfigError
from pg_experiments.policies.bounds import Bounds
from pg_experiments.policies.convolution import Convolutions
from pg_experiments.policies.distributions import DiagonalGaussian
from pg_experiments.policies.head import HeadPolicy
from pg_experiments.policies.networks import FIXED, Parameters


@dataclass(frozen=True)
class GaussianHead:
    """Normal(mean, std²), with independent dimensions; see `Gaussian`."""

    actions: BoxActions
    state_dependent_std: bool
    fixed_std: bool
    initial_std: Float[Tensor, " runs"]

    def __post_init__(self) -> None:
        if self.state_dependent_std and self.fixed_std:
            raise ConfigError("policy.fixed_std", True, "cannot be with policy.state_dependent_std=true; choose one")

    @property
    def output_size(self) -> int:
        return self.action_size * (2 if self.state_dependent_std else 1)

    @cached_property
    def action_size(self) -> int:
        return len(self.actions.low)

    def first_output(self, runs: int, dtype: torch.dtype) -> Float[Tensor, "runs outputs"]:
        zero = torch.zeros(runs, self.action_size, dtype=dtype, device=self.initial_std.device)
        return torch.cat([zero, self._log_std(dtype)], 1) if self.state_dependent_std else zero

    def init(self, runs: int, dtype: torch.dtype) -> Parameters:
        return {} if self.state_dependent_std else {self._name: self._log_std(dtype)}

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples outputs"]) -> DiagonalGaussian:
        if self.state_dependent_std:
            return DiagonalGaussian(output[..., : self.action_size], output[..., self.action_size :])
        log_std = parameters[self._name][:, None]
        return DiagonalGaussian(output, log_std.detach() if self.fixed_std else log_std)

    @property
    def noise_size(self) -> int:
        return self.action_size

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape action"]:
        return DiagonalGaussian.draw_noise(generator, shape, self.action_size, dtype)

    def env_action(self, action: Float[Tensor, "*samples action"]) -> Float[Tensor, "*samples action"]:
        """(low + high) / 2 + a · (high - low) / 2, clipped; a dimension with an infinite bound is only clipped."""
        return self._bounds(action)

    @property
    def sure(self) -> tuple[str, str]:
        return "std", "standard deviation of the sampled action, before it is clipped"

    def how_sure(self, distribution: DiagonalGaussian) -> Float[Tensor, "runs samples numbers"]:
        return (distribution.log_std.exp() * self._bounds.scale(distribution.mean.dtype)).expand_as(distribution.mean)

    @cached_property
    def _bounds(self) -> Bounds:
        return Bounds(self.actions)

    @property
    def _name(self) -> str:
        return f"{FIXED}log_std" if self.fixed_std else "log_std"

    def _log_std(self, dtype: torch.dtype) -> Float[Tensor, "runs action"]:
        return self.initial_std.to(dtype).log()[:, None].repeat(1, self.action_size)


class Gaussian(HeadPolicy):
    """π(a | s) = Normal(mean(s), std²), with independent dimensions.

    The sampled action lives on a scale where [-1, 1] spans the environment's bounds: `env_action` rescales it and
    clips it at the bounds. Log-probability and gradient stay those of the sample, not of the clipped action.

    Source: Williams (1992), section 6; Sutton and Barto (2018), section 13.7.

    Args:
        hidden_sizes, activation, convolutions: of the network, see `HeadPolicy`.
        state_dependent_std: False: one log std per action dimension, a parameter of its own. True: the network's second
            half of outputs is the log std of each observation.
        initial_std: standard deviation at the start, per run, > 0; 1 reaches a bound with one standard deviation.
        fixed_std: True: the standard deviation stays `initial_std`; not with `state_dependent_std`.
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden_sizes: Sequence[int],
        activation: str,
        state_dependent_std: bool,
        initial_std: Float[Tensor, " runs"],
        fixed_std: bool = False,
        convolutions: Convolutions | None = None,
    ) -> None:
        head = GaussianHead(box_of(spec), state_dependent_std, fixed_std, initial_std)
        super().__init__(spec, hidden_sizes, activation, head, convolutions)


def box_of(spec: EnvSpec) -> BoxActions:
    """The continuous actions that a policy needs, which `check_policy_fits` has seen."""
    if not isinstance(spec.actions, BoxActions):
        raise ConfigError("policy", None, "needs continuous actions")
    return spec.actions
