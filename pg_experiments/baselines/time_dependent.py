"""The mean return of earlier iterations, for every step of the episode its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.baselines.history import History, weighted_mean
from pg_experiments.baselines.interface import Experience
from pg_experiments.envs.interface import EnvSpec


@dataclass(frozen=True)
class TimeDependent:
    """bₜ = Σₖ decayᵏ Σ Gₜ / Σₖ decayᵏ nₜ over the nₜ episodes of the iteration k + 1 before that reached step t.

    0 for a step that no episode has reached yet. It depends on t and on earlier iterations only, so the expected
    gradient is exact.

    Source: Peters and Schaal (2008), "Reinforcement learning of motor skills with policy gradients", for a baseline of
    every time step; here it is the mean return.

    Attributes:
        decay: what an iteration weighs less than the one after it, in [0, 1], per run; 1: the mean of all.
    """

    spec: EnvSpec
    decay: Float[Tensor, " runs"]

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> History:
        nothing = torch.zeros(len(generators), self.spec.max_episode_steps, dtype=torch.float64)
        return History({"total": nothing, "weight": nothing.clone()})

    def values_then_learn(
        self, learner: History, experience: Experience, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " samples"], dict[str, Float[Tensor, " runs"]]]:
        returns, packing = experience.returns, experience.packing
        mean = weighted_mean(learner.parameters["total"], learner.parameters["weight"])
        total, weight = torch.zeros_like(mean), torch.zeros_like(mean)
        steps = experience.running.shape[1]
        total[:, :steps] = experience.returns_grid.double().sum(-1)
        weight[:, :steps] = experience.running.sum(-1)
        learner.add(self.decay, {"total": total, "weight": weight})
        return mean[packing.run, packing.step].to(returns.dtype), {}
