"""A policy made of two: a network over the observation, and a head that makes a distribution of what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Generator, Tensor

from pg_experiments.envs.interface import EnvSpec
from pg_experiments.policies.convolution import Convolutions, network_of
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.masking import masked
from pg_experiments.policies.networks import Network, Parameters


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

    @property
    def sure(self) -> tuple[str, str]:
        """A word for what `how_sure` gives, and a sentence about it: for the README.md of an exported policy."""
        ...

    def how_sure(self, distribution: Any, /) -> Float[Tensor, "runs samples numbers"]:
        """How sure the policy is of its action, in standard operations of torch."""
        ...


@dataclass(frozen=True)
class HeadPolicy:
    """π(a | s) = head(network(s)), of legal actions alone where the observation has a mask, see `MaskedNetwork`.

    Attributes:
        hidden_sizes, activation: of the network, see `MLP`; no hidden layers make a linear policy.
        head: for the environment's actions.
        convolutions: at the beginning of the network, see `CNN`; None: the observation is a vector.
    """

    spec: EnvSpec
    hidden_sizes: Sequence[int]
    activation: str
    head: Head
    convolutions: Convolutions | None = None

    @cached_property
    def network(self) -> Network:
        size, outputs = self.spec.observation_size - self.spec.mask_size, self.head.output_size
        network = network_of(self.convolutions, size, self.hidden_sizes, outputs, self.activation, 0.01)
        return masked(network, self.spec.mask_size)

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        parameters = self.network.init(generators, dtype)
        bias = parameters[self.network.names[-1]]
        bias += self.head.first_output(len(generators), dtype).to(bias.device)  # drawn on the CPU, wherever it will be
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

    def action_module(self, parameters: Parameters) -> torch.nn.Module:
        others = {name: part for name, part in parameters.items() if name not in self.network.names}
        return HeadAction(self.network.module(parameters), self.head, others)


class HeadAction(torch.nn.Module):
    """The policy of one run, for `pg_experiments.export`: its mode as the environment's action, and how sure it is.

    Args:
        network: from observations `[batch, observation]` to the head's numbers.
        head: of the policy.
        parameters: that are not the network's, `[1, ...]`.
    """

    def __init__(self, network: torch.nn.Module, head: Head, parameters: Parameters) -> None:
        super().__init__()
        self.network, self.head, self.names = network, head, list(parameters)
        for place, part in enumerate(parameters.values()):
            self.register_buffer(f"parameter{place}", part.clone())

    def forward(
        self, observation: Float[Tensor, "batch observation"]
    ) -> tuple[Num[Tensor, "batch *action"], Float[Tensor, "batch numbers"]]:
        own = {name: self.get_buffer(f"parameter{place}") for place, name in enumerate(self.names)}
        distribution = self.head.distribution(own, self.network(observation)[None])
        return self.head.env_action(distribution.mode())[0], self.head.how_sure(distribution)[0]
