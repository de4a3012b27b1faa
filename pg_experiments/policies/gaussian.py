"""Gaussian policy for continuous actions: a network gives the mean, parameters or the network the spread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.envs.interface import BoxActions, EnvSpec
from pg_experiments.errors import ConfigError
from pg_experiments.policies.distributions import DiagonalGaussian
from pg_experiments.policies.networks import MLP, Parameters
from pg_experiments.policies.standalone import GaussianAction


@dataclass(frozen=True)
class Gaussian:
    """π(a | s) = Normal(mean(s), std²), with independent dimensions.

    The sampled action lives on a scale where [-1, 1] spans the environment's bounds: `env_action` rescales it and
    clips it at the bounds. Log-probability and gradient stay those of the sample, not of the clipped action.

    Source: Williams (1992), section 6; Sutton and Barto (2018), section 13.7.

    Attributes:
        hidden_sizes, activation: of the network, see `MLP`.
        state_dependent_std: False: one log std per action dimension, a parameter of its own. True: the network's second
            half of outputs is the log std of each observation.
        initial_std: standard deviation at the start, per run, > 0; 1 reaches a bound with one standard deviation.
    """

    spec: EnvSpec
    hidden_sizes: Sequence[int]
    activation: str
    state_dependent_std: bool
    initial_std: Float[Tensor, " runs"]

    @cached_property
    def action_size(self) -> int:
        return len(self._bounds().low)

    @cached_property
    def network(self) -> MLP:
        outputs = self.action_size * (2 if self.state_dependent_std else 1)
        return MLP(self.spec.observation_size, self.hidden_sizes, outputs, self.activation, 0.01)

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        parameters = self.network.init(generators, dtype)
        log_std = self.initial_std.to(dtype).log()[:, None].repeat(1, self.action_size)
        if self.state_dependent_std:
            last = f"layer{len(self.hidden_sizes)}.bias"
            parameters[last][:, self.action_size :] = log_std
        else:
            parameters["log_std"] = log_std
        return parameters

    def actor(self, parameters: Parameters) -> Callable[[Tensor], DiagonalGaussian]:
        act = self.network.actor(parameters)
        return lambda observation: self.distribution(parameters, act(observation))

    def __call__(
        self, parameters: Parameters, observation: Float[Tensor, "runs samples observation"]
    ) -> DiagonalGaussian:
        return self.distribution(parameters, self.network(parameters, observation))

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples output"]) -> DiagonalGaussian:
        if self.state_dependent_std:
            return DiagonalGaussian(output[..., : self.action_size], output[..., self.action_size :])
        return DiagonalGaussian(output, parameters["log_std"][:, None])

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape action"]:
        return DiagonalGaussian.draw_noise(generator, shape, self.action_size, dtype)

    def env_action(self, action: Float[Tensor, "*samples action"]) -> Float[Tensor, "*samples action"]:
        """(low + high) / 2 + a · (high - low) / 2, clipped; a dimension with an infinite bound is only clipped."""
        offset, scale, low, high = self._scaling[action.dtype]
        return (offset + action * scale).clamp(low, high)

    def action_module(self, parameters: Parameters) -> torch.nn.Module:
        network = self.network.module(parameters)
        log_std = None if self.state_dependent_std else parameters["log_std"][0]
        return GaussianAction(network, log_std, *self._scaling[next(iter(parameters.values())).dtype])

    @cached_property
    def _scaling(self) -> dict[torch.dtype, tuple[Tensor, Tensor, Tensor, Tensor]]:
        low, high = (torch.tensor(bound, dtype=torch.float64) for bound in (self._bounds().low, self._bounds().high))
        bounded = torch.isfinite(low) & torch.isfinite(high)
        offset = torch.where(bounded, 0.5 * (low + high), 0.0)
        scale = torch.where(bounded, 0.5 * (high - low), 1.0)
        return {
            dtype: (offset.to(dtype), scale.to(dtype), low.to(dtype), high.to(dtype))
            for dtype in (torch.float32, torch.float64)
        }

    def _bounds(self) -> BoxActions:
        if not isinstance(self.spec.actions, BoxActions):
            raise ConfigError("policy", None, "a Gaussian policy needs continuous actions")
        return self.spec.actions
