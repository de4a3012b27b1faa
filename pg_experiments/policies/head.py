"""A policy made of two: a network over the observation, and a head that makes a distribution of what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Generator, Tensor

from pg_experiments.envs.interface import EnvSpec
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.networks import MLP, Parameters


@runtime_checkable
class Head(Protocol):
    """From the outputs of a network to a distribution over the actions of one action space, for a batch of runs."""

    @property
    def output_size(self) -> int:
        """How many numbers it needs of the network."""
        ...

    def first_output(self, runs: int, dtype: torch.dtype) -> Float[Tensor, "runs outputs"]:
        """What the network should give at the start, whatever the observation: the bias of its last layer."""
        ...

    def init(self, runs: int, dtype: torch.dtype) -> Parameters:
        """Parameters that are not the network's; often none."""
        ...

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples outputs"]) -> Distribution:
        """The distribution for every output of the network."""
        ...

    @property
    def noise_size(self) -> int:
        """How many numbers of noise one action takes."""
        ...

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape noise"]:
        """What `Distribution.sample` turns into actions."""
        ...

    def env_action(self, action: Num[Tensor, "..."]) -> Num[Tensor, "..."]:
        """The environment's action for a sampled one."""
        ...


@dataclass(frozen=True)
class HeadPolicy:
    """π(a | s) = head(network(s)).

    Attributes:
        hidden_sizes, activation: of the network, see `MLP`; no hidden layers make a linear policy.
        head: for the environment's actions.
    """

    spec: EnvSpec
    hidden_sizes: Sequence[int]
    activation: str
    head: Head

    @cached_property
    def network(self) -> MLP:
        return MLP(self.spec.observation_size, self.hidden_sizes, self.head.output_size, self.activation, 0.01)

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        parameters = self.network.init(generators, dtype)
        parameters[self.network.names[-1]] += self.head.first_output(len(generators), dtype)
        return parameters | self.head.init(len(generators), dtype)

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Distribution]:
        act = self.network.actor(parameters)
        return lambda observation: self.head.distribution(parameters, act(observation))

    def __call__(self, parameters: Parameters, observation: Float[Tensor, "runs samples observation"]) -> Distribution:
        return self.head.distribution(parameters, self.network(parameters, observation))

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples outputs"]) -> Distribution:
        return self.head.distribution(parameters, output)

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape noise"]:
        return self.head.draw_noise(generator, shape, dtype)

    def env_action(self, action: Num[Tensor, "..."]) -> Num[Tensor, "..."]:
        return self.head.env_action(action)
