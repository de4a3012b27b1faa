"""The mean return of the batch's episodes, the episode itself included."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.baselines.interface import Experience


@dataclass(frozen=True)
class BatchMean:
    """b = mean of Gₜ over the nₜ episodes of the iteration that reached step t.

    It contains the return that it is subtracted from, so what an episode that reached step t adds to the expected
    gradient there is multiplied by 1 - E[1 / nₜ | it reached t]: by exactly 1 - 1/N where all N episodes have the same
    length. `leave_one_out` has no such factor.

    Source: Greensmith, Bartlett and Baxter (2004), section 3, for the average-return baseline.
    """

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> None:
        return None

    def values_then_learn(
        self, learner: None, experience: Experience, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " samples"], dict[str, Float[Tensor, " runs"]]]:
        returns = experience.returns_grid
        episodes = experience.running.sum(-1, keepdim=True).clamp(min=1)
        mean = returns.sum(-1, keepdim=True) / episodes
        return experience.packing.pack(mean.expand_as(returns)), {}
