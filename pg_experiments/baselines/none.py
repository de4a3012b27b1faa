"""No baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.baselines.interface import Experience


@dataclass(frozen=True)
class NoBaseline:
    """b = 0: with `normalize_advantage=false` plain REINFORCE, unbiased, whose variance the others are compared with.

    Source: Williams (1992).
    """

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> None:
        return None

    def values_then_learn(
        self, learner: None, experience: Experience, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " samples"], dict[str, Float[Tensor, " runs"]]]:
        return torch.zeros_like(experience.returns), {}
