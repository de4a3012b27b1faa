"""Observations with mean 0 and variance 1: the statistics belong to the policy and are saved with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Generator, Tensor

from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.interface import ExportablePolicy, Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.policies.standalone import Normalization
from pg_experiments.wrappers.statistics import RunningStatistics, named, statistics_of

PREFIX = "observation_statistics."


@dataclass(frozen=True)
class NormalizedPolicy:
    """A policy that sees (s - mean) / √(variance + 1e-8), cut off at ±`limit`, of each number of the observation.

    Mean and variance are those of all observations of the iterations that are complete: while a run plays they do not
    change, so the policy that acted is the policy whose gradient is taken; while it is evaluated they do not change at
    all. Before the first iteration is complete, observations are as they are, but for the limit.

    Attributes:
        inner: the policy that is trained.
        size: numbers in one observation; what is behind them, a mask of legal actions, stays as it is.
        limit: of what the inner policy sees.
    """

    inner: Policy
    size: int
    limit: float

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        """The inner policy's, and the statistics of nothing, float64."""
        return self.inner.init(generators, dtype) | named(
            RunningStatistics.none_yet(len(generators), self.size), PREFIX
        )

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Distribution]:
        act = self.inner.actor(trained(parameters))
        dtype = next(iter(parameters.values())).dtype
        normalize = self.normalizer(statistics_of(parameters, PREFIX), dtype)
        return lambda observation: act(normalize(observation))

    def __call__(self, parameters: Parameters, observation: Float[Tensor, "runs samples observation"]) -> Distribution:
        normalize = self.normalizer(statistics_of(parameters, PREFIX), observation.dtype)
        return self.inner(trained(parameters), normalize(observation))

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape noise"]:
        return self.inner.draw_noise(generator, shape, dtype)

    def env_action(self, action: Num[Tensor, "..."]) -> Num[Tensor, "..."]:
        return self.inner.env_action(action)

    def action_module(self, parameters: Parameters) -> torch.nn.Module:
        """The normalisation, and behind it the inner policy's, which has to be exportable."""
        own = trained(parameters)
        statistics = statistics_of(parameters, PREFIX)
        dtype = next(iter(own.values())).dtype
        normalization = Normalization(
            statistics.mean[0].to(dtype), (1 / statistics.spread[0]).to(dtype), float(self.limit)
        )
        assert isinstance(self.inner, ExportablePolicy)
        return torch.nn.Sequential(normalization, self.inner.action_module(own))

    def normalizer(self, statistics: RunningStatistics, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """From observations `[runs, ..., observation]` to what the inner policy sees of them."""
        mean = statistics.mean.to(dtype)
        scale = (1 / statistics.spread).to(dtype)

        def normalize(observation: Float[Tensor, "runs *more size"]) -> Float[Tensor, "runs *more size"]:
            between = (1,) * (observation.ndim - 2)
            mask = observation[..., self.size :]
            centred = observation[..., : self.size] - mean.reshape(len(mean), *between, -1)
            normalized = (centred * scale.reshape(len(mean), *between, -1)).clamp(-self.limit, self.limit)
            return torch.cat([normalized, mask], -1) if mask.shape[-1] else normalized

        return normalize


def trained(parameters: Parameters) -> Parameters:
    """Those that a gradient changes."""
    return {name: value for name, value in parameters.items() if not name.startswith(PREFIX)}
