"""What a policy is to this package: observation -> distribution over actions. No optimizer, no loss, no data."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Generator, Tensor

from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.networks import Network, Parameters


@runtime_checkable
class Policy(Protocol):
    """π(action | observation; parameters), for a batch of runs.

    A policy is a frozen dataclass made from its config and the environment's `EnvSpec`; per-run numbers of its config
    arrive as tensors `[runs]`. The parameters are handed in and out.
    """

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        """Draw first parameters for each run from its own generator."""
        ...

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Distribution]:
        """The policy with these parameters, for many calls without gradient; `partial(self, parameters)` will do."""
        ...

    def __call__(self, parameters: Parameters, observation: Float[Tensor, "runs samples observation"]) -> Distribution:
        """The distribution over actions for every observation."""
        ...

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape noise"]:
        """Draw from one run's generator the noise that `Distribution.sample` turns into actions."""
        ...

    def env_action(self, action: Num[Tensor, "..."]) -> Num[Tensor, "..."]:
        """The environment's action for a sampled one: rescaled to the bounds and clipped, or the same."""
        ...


@runtime_checkable
class NetworkPolicy(Policy, Protocol):
    """A policy whose distribution depends on the observation through the output of one network alone."""

    @property
    def network(self) -> Network:
        """From the observation to the numbers that the distribution is made of."""
        ...

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples output"]) -> Distribution:
        """What the policy makes of the network's output, and of those parameters that are not the network's."""
        ...


@runtime_checkable
class ExportablePolicy(Policy, Protocol):
    """A policy that `pg_experiments.export` can write into a file that needs this package no more."""

    def action_module(self, parameters: Parameters) -> torch.nn.Module:
        """What the policy of one run does, deterministically, in standard operations of torch: see `standalone.py`.

        Args:
            parameters: of that run, `[1, ...]`.

        Returns:
            A module from observations `[batch, observation]` to the pair of: the actions to send (an index, int64
            `[batch]`; whole numbers, int64 `[batch, choices]`; or real ones within the bounds, `[batch, action]`), and
            how sure the policy is of them, `[batch, numbers]`: probabilities, standard deviations, see `Head.how_sure`.
        """
        ...
