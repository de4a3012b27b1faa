"""The mean return of the batch's other episodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.baselines.interface import Experience


@dataclass(frozen=True)
class LeaveOneOut:
    """b = mean of Gₜ over the *other* episodes of the iteration that reached step t; 0 when there is none.

    Other episodes do not depend on this one's actions, so the expected gradient is exact.

    Source: Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for free!".
    """

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> None:
        return None

    def values_then_learn(
        self, learner: None, experience: Experience, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " samples"], dict[str, Float[Tensor, " runs"]]]:
        returns = experience.returns_grid
        others = experience.running.sum(-1, keepdim=True) - 1
        mean = (returns.sum(-1, keepdim=True) - returns) / others.clamp(min=1)
        return experience.packing.pack(torch.where(others > 0, mean, 0.0)), {}
