"""Softmax policies for discrete actions: a network over the observation, or a table over the states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from pg_experiments.envs.interface import DiscreteActions, EnvSpec
from pg_experiments.errors import ConfigError
from pg_experiments.policies.distributions import Categorical
from pg_experiments.policies.networks import MLP, Parameters
from pg_experiments.policies.standalone import SoftmaxAction, perceptron


@dataclass(frozen=True)
class _DiscretePolicy:
    """What both softmax policies share: the noise of a categorical draw, and actions that pass unchanged."""

    spec: EnvSpec

    @property
    def num_actions(self) -> int:
        if not isinstance(self.spec.actions, DiscreteActions):
            raise ConfigError("policy", None, "a softmax policy needs discrete actions")
        return self.spec.actions.count

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape actions"]:
        return Categorical.draw_noise(generator, shape, self.num_actions, dtype)

    def env_action(self, action: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        return action


@dataclass(frozen=True)
class Softmax(_DiscretePolicy):
    """π(a | s) = softmax(network(s))ₐ.

    Source: Sutton and Barto (2018), section 13.1, with a network for the action preferences h(s, a, θ).

    Attributes:
        hidden_sizes, activation: of the network, see `MLP`.
    """

    hidden_sizes: Sequence[int]
    activation: str

    @cached_property
    def network(self) -> MLP:
        return MLP(self.spec.observation_size, self.hidden_sizes, self.num_actions, self.activation, 0.01)

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        return self.network.init(generators, dtype)

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Categorical]:
        act = self.network.actor(parameters)
        return lambda observation: Categorical(act(observation))

    def __call__(self, parameters: Parameters, observation: Float[Tensor, "runs samples observation"]) -> Categorical:
        return Categorical(self.network(parameters, observation))

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples actions"]) -> Categorical:
        return Categorical(output)

    def action_module(self, parameters: Parameters) -> torch.nn.Module:
        return SoftmaxAction(self.network.module(parameters))


@dataclass(frozen=True)
class TabularSoftmax(_DiscretePolicy):
    """π(a | s) = softmax(table[s])ₐ for a finite environment: simple enough for exact gradients.

    The observation is the one-hot vector of the state. The table starts at zero: every action is equally probable.

    Source: Sutton and Barto (2018), section 13.1 (tabular case of eq. 13.2).
    """

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        return {"table": torch.zeros(len(generators), self.spec.observation_size, self.num_actions, dtype=dtype)}

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Categorical]:
        return partial(self, parameters)

    def __call__(self, parameters: Parameters, observation: Float[Tensor, "runs samples states"]) -> Categorical:
        table = MLP(self.spec.observation_size, (), self.num_actions, "relu", 1.0)
        no_bias = torch.zeros_like(parameters["table"][:, 0])
        return Categorical(table({"layer0.weight": parameters["table"], "layer0.bias": no_bias}, observation))

    def action_module(self, parameters: Parameters) -> torch.nn.Module:
        table = parameters["table"][0]
        return SoftmaxAction(perceptron([(table, torch.zeros_like(table[0]))], "relu"))
