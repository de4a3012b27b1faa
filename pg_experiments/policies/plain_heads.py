"""Heads that only hand the network's outputs on: to logits, or to two numbers for each dimension of a box."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from pg_experiments.envs.interface import BoxActions
from pg_experiments.policies.bounds import Bounds
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.networks import Parameters

Noise = Callable[[Generator, tuple[int, ...], int, torch.dtype], Tensor]  # generator, shape, numbers of an action, type


@dataclass(frozen=True)
class LogitsHead:
    """The network gives logits, 0 at the start, and the distribution's action is the environment's.

    Attributes:
        output_size: logits, and numbers of noise.
        make: from the logits to the distribution.
        noise: its `draw_noise`.
        sure, how_sure: see `Head`.
    """

    output_size: int
    make: Callable[[Tensor], Distribution]
    noise: Noise
    sure: tuple[str, str]
    how_sure: Callable[[Any], Tensor]

    @property
    def noise_size(self) -> int:
        return self.output_size

    def first_output(self, runs: int, dtype: torch.dtype) -> Float[Tensor, "runs logits"]:
        return torch.zeros(runs, self.output_size, dtype=dtype)

    def init(self, runs: int, dtype: torch.dtype) -> Parameters:
        return {}

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples logits"]) -> Distribution:
        return self.make(output)

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape logits"]:
        return self.noise(generator, shape, self.output_size, dtype)

    def env_action(self, action: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        return action


@dataclass(frozen=True)
class PairHead:
    """The network gives two numbers for each dimension of a box: the first of all dimensions, then the second.

    Attributes:
        actions: the box.
        first: what both should be at the start, for each run.
        make: from both, `[runs, samples, action]`, to the distribution.
        noise: its `draw_noise`.
        to_unit: from the distribution's action to the scale on which [-1, 1] spans the box.
        sure: see `Head`.
        spread: from the distribution and the half widths of the box to `how_sure`, see `Head`.
    """

    actions: BoxActions
    first: tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]
    make: Callable[[Tensor, Tensor], Distribution]
    noise: Noise
    to_unit: Callable[[Tensor], Tensor]
    sure: tuple[str, str]
    spread: Callable[[Any, Bounds], Tensor]

    @property
    def output_size(self) -> int:
        return 2 * self.noise_size

    @property
    def noise_size(self) -> int:
        return len(self.actions.low)

    def first_output(self, runs: int, dtype: torch.dtype) -> Float[Tensor, "runs outputs"]:
        return torch.cat([number.to(dtype)[:, None].repeat(1, self.noise_size) for number in self.first], 1)

    def init(self, runs: int, dtype: torch.dtype) -> Parameters:
        return {}

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples outputs"]) -> Distribution:
        return self.make(output[..., : self.noise_size], output[..., self.noise_size :])

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape action"]:
        return self.noise(generator, shape, self.noise_size, dtype)

    def env_action(self, action: Float[Tensor, "*samples action"]) -> Float[Tensor, "*samples action"]:
        return self._bounds(self.to_unit(action))

    def how_sure(self, distribution: Any, /) -> Float[Tensor, "runs samples numbers"]:
        return self.spread(distribution, self._bounds)

    @cached_property
    def _bounds(self) -> Bounds:
        return Bounds(self.actions)
