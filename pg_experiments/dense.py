"""The samples of fixed rollouts: every run has equally many, so that they lie side by side without gaps."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pg_experiments.packing import NUMBERS_AT_ONCE, SAMPLES_AT_ONCE, Pass


@dataclass(frozen=True)
class Dense:
    """The samples of all runs, run by run; the same methods as `Packing`, whose blocks depend on a run's own count.

    A pass holds whole runs, as many as keep its activations in the processor's cache, and at least one; or a part of
    one run, where all of its samples need too many numbers.

    Attributes:
        runs: how many.
        size: samples of each.
    """

    runs: int
    size: int

    @property
    def whole_runs(self) -> bool:
        """Every run is one block."""
        return True

    @cached_property
    def passes(self) -> list[Pass]:
        """Some runs after the others."""
        return self.passes_of(1)

    def passes_of(self, numbers_per_sample: int) -> list[Pass]:
        """The same with fewer runs at once where a sample needs many numbers, and at last with parts of one."""
        if not self.is_whole(numbers_per_sample):
            size = max(1, NUMBERS_AT_ONCE // numbers_per_sample)
            return [
                Pass(torch.tensor([run]), slice(first, min(first + size, (run + 1) * self.size)))
                for run in range(self.runs)
                for first in range(run * self.size, (run + 1) * self.size, size)
            ]
        together = max(1, min(SAMPLES_AT_ONCE, NUMBERS_AT_ONCE // numbers_per_sample) // self.size)
        groups = torch.arange(self.runs).split(together)
        return [Pass(rows, slice(int(rows[0]) * self.size, (int(rows[-1]) + 1) * self.size)) for rows in groups]

    def is_whole(self, numbers_per_sample: int) -> bool:
        """Whether each of these passes holds all samples of its runs."""
        return self.size * numbers_per_sample <= NUMBERS_AT_ONCE

    @property
    def counts(self) -> list[int]:
        """Number of samples of each run."""
        return [self.size] * self.runs

    def pack(self, grid: Shaped[Tensor, "runs steps envs *rest"]) -> Shaped[Tensor, "samples *rest"]:
        """The grid's entries at every sample: a view."""
        return grid.flatten(0, 2)

    def spread(self, x: Shaped[Tensor, " runs"]) -> Shaped[Tensor, " samples"]:
        """Each run's number at every sample of it."""
        return x.repeat_interleave(self.size)

    def sum(self, x: Float[Tensor, " samples"]) -> Float[Tensor, " runs"]:
        """Σ over a run's samples."""
        return x.view(self.runs, self.size).sum(1)

    def mean(self, x: Float[Tensor, " samples"]) -> Float[Tensor, " runs"]:
        """Mean over a run's samples."""
        return self.sum(x) / self.size

    def variance(self, x: Float[Tensor, " samples"]) -> Float[Tensor, " runs"]:
        """Mean square deviation from the mean over a run's samples."""
        return self.mean((x - self.spread(self.mean(x))).square())

    def normalized(self, x: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
        """(x - mean) / (standard deviation + 1e-8), each run's by its own samples."""
        centred = x - self.spread(self.mean(x))
        return centred / (self.spread(self.mean(centred.square()).sqrt()) + 1e-8)
