"""The mean return of earlier iterations."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.baselines.history import History, weighted_mean
from pg_experiments.baselines.interface import Experience


@dataclass(frozen=True)
class RunningMean:
    """b = Σₖ decayᵏ ḡₖ / Σₖ decayᵏ, with ḡₖ the mean of Gₜ over all steps of the iteration k + 1 before; at first 0.

    It depends on earlier iterations only, so the expected gradient is exact. It is one number for all steps:
    `normalize_advantage` subtracts the mean anyhow, and makes it of no effect.

    Source: Sutton (1984), reinforcement comparison; Williams (1992), for REINFORCE.

    Attributes:
        decay: what an iteration weighs less than the one after it, in [0, 1], per run; 1: the mean of all.
    """

    decay: Float[Tensor, " runs"]

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> History:
        nothing = torch.zeros(len(generators), 1, dtype=torch.float64)
        return History({"total": nothing, "weight": nothing.clone()})

    def values_then_learn(
        self, learner: History, experience: Experience, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " samples"], dict[str, Float[Tensor, " runs"]]]:
        returns, packing = experience.returns, experience.packing
        mean = weighted_mean(learner.parameters["total"], learner.parameters["weight"])[:, 0]
        news = packing.mean(returns.double())[:, None]
        learner.add(self.decay, {"total": news, "weight": torch.ones_like(news)})
        return packing.spread(mean.to(returns.dtype)), {"baseline/mean": mean}
