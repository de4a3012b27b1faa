"""Softmax policies for discrete actions: a network over the observation, or a table over the states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from pg_experiments.envs.interface import DiscreteActions, EnvSpec
from pg_experiments.errors import ConfigError
from pg_experiments.policies.convolution import Convolutions
from pg_experiments.policies.distributions import Categorical
from pg_experiments.policies.head import HeadAction, HeadPolicy
from pg_experiments.policies.masking import masked
from pg_experiments.policies.networks import MLP, Parameters
from pg_experiments.policies.plain_heads import LogitsHead
from pg_experiments.policies.standalone import Masked, perceptron


def softmax_head(actions: DiscreteActions) -> LogitsHead:
    """A categorical distribution over the actions; see `Softmax`."""
    about = ("probabilities", "of the actions, from 0 on")
    return LogitsHead(actions.count, Categorical, Categorical.draw_noise, about, _probabilities)


def _probabilities(distribution: Categorical) -> Float[Tensor, "runs samples actions"]:
    return torch.softmax(distribution.logits, -1)


class Softmax(HeadPolicy):
    """π(a | s) = softmax(network(s))ₐ.

    Source: Sutton and Barto (2018), section 13.1, with a network for the action preferences h(s, a, θ).

    Args:
        hidden_sizes, activation, convolutions: of the network, see `HeadPolicy`.
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden_sizes: Sequence[int],
        activation: str,
        convolutions: Convolutions | None = None,
    ) -> None:
        super().__init__(spec, hidden_sizes, activation, softmax_head(discrete_of(spec)), convolutions)

    @property
    def num_actions(self) -> int:
        return discrete_of(self.spec).count


@dataclass(frozen=True)
class TabularSoftmax:
    """π(a | s) = softmax(table[s])ₐ for a finite environment: simple enough for exact gradients.

    The observation is the one-hot vector of the state. The table starts at zero: every action is equally probable.

    Source: Sutton and Barto (2018), section 13.1 (tabular case of eq. 13.2).
    """

    spec: EnvSpec

    @property
    def num_actions(self) -> int:
        return discrete_of(self.spec).count

    @property
    def _rows(self) -> int:
        return self.spec.observation_size - self.spec.mask_size

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        return {"table": torch.zeros(len(generators), self._rows, self.num_actions, dtype=dtype)}

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Categorical]:
        return partial(self, parameters)

    def __call__(self, parameters: Parameters, observation: Float[Tensor, "runs samples states"]) -> Categorical:
        table = masked(MLP(self._rows, (), self.num_actions, "relu", 1.0), self.spec.mask_size)
        no_bias = torch.zeros_like(parameters["table"][:, 0])
        return Categorical(table({"layer0.weight": parameters["table"], "layer0.bias": no_bias}, observation))

    def action_module(self, parameters: Parameters) -> torch.nn.Module:
        table = parameters["table"][0]
        network: torch.nn.Module = perceptron([(table, torch.zeros_like(table[0]))], "relu")
        network = Masked(network, self.spec.mask_size) if self.spec.mask_size else network
        return HeadAction(network, softmax_head(discrete_of(self.spec)), {})

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape actions"]:
        return Categorical.draw_noise(generator, shape, self.num_actions, dtype)

    def env_action(self, action: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        return action


def discrete_of(spec: EnvSpec) -> DiscreteActions:
    """The discrete actions that a policy needs, which `check_policy_fits` has seen."""
    if not isinstance(spec.actions, DiscreteActions):
        raise ConfigError("policy", None, "needs discrete actions")
    return spec.actions
