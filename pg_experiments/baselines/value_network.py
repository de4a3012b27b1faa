"""A network that learns the value of the state."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.baselines.interface import Experience
from pg_experiments.envs.interface import EnvSpec
from pg_experiments.gradients import network_gradients
from pg_experiments.modes import known_mode_of
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.optimizers import Learner
from pg_experiments.packing import Pass
from pg_experiments.policies.convolution import Convolutions, network_of
from pg_experiments.policies.networks import Network, Parameters


@dataclass(frozen=True)
class ValueNetwork:
    """b = V(s), fitted to the returns: each step of its optimizer lowers the mean of (V(s) - G)² over the iteration.

    The values used in an iteration are those from before it was learned from, so they do not depend on its actions and
    the expected gradient is exact. They cost nothing extra: the first fitting step's forward pass gives them.

    Source: Sutton and Barto (2018), section 13.4, REINFORCE with baseline.

    Attributes:
        hidden_sizes, activation: of the network, see `MLP`.
        updates_per_iteration: fitting steps, each over all samples of the iteration. The metric
            `gradient/baseline_norm` is that of the first.
        optimizer: settings of its own.
        convolutions: at the beginning of the network, see `CNN`; None: the observation is a vector.
    """

    spec: EnvSpec
    hidden_sizes: Sequence[int]
    activation: str
    updates_per_iteration: int
    optimizer: OptimizerSettings
    convolutions: Convolutions | None = None

    @property
    def network(self) -> Network:
        return network_of(self.convolutions, self.spec.observation_size, self.hidden_sizes, 1, self.activation, 1.0)

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Learner:
        return Learner(self.optimizer, self.network.init(generators, dtype))

    def values_then_learn(
        self, learner: Learner, experience: Experience, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " samples"], dict[str, Float[Tensor, " runs"]]]:
        returns, packing = experience.returns, experience.packing
        share = packing.weight * packing.spread(2 / torch.tensor(packing.counts, dtype=returns.dtype))
        values = torch.zeros_like(returns)

        def loss_gradient(predicted: Float[Tensor, "blocks size 1"], blocks: Pass) -> Float[Tensor, "blocks size 1"]:
            """2 (V(s) - G) / number of samples of the run, and 0 at what only fills up a block."""
            blocks.of(values).copy_(predicted[..., 0])
            return ((predicted[..., 0] - blocks.of(returns)) * blocks.of(share))[..., None]

        def gradients() -> Parameters:
            return network_gradients(self.network, learner.parameters, packing, experience.observation, loss_gradient)

        values_before = torch.empty_like(values)
        with known_mode_of(self)():
            norm, _ = learner.step(gradients(), progress)
            values_before.copy_(values)  # the other updates write into it, too
            for _ in range(self.updates_per_iteration - 1):
                learner.step(gradients(), progress)
        mean_square_error = packing.mean((values_before - returns).square())
        return values_before, {"loss/baseline": mean_square_error, "gradient/baseline_norm": norm}
