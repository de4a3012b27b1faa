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

    A pass holds whole runs: as many as keep its activations in the processor's cache, and at least one.

    Attributes:
        runs: how many.
        size: samples of each.
    """

    runs: int
    size: int

    @property
    def whole_runs(self) -> bool:
        """Each run is in one pass, with all of its samples, and passes hold runs in their order."""
        return True

    @cached_property
    def passes(self) -> list[Pass]:
        """Some runs after the others."""
        return self.passes_of(1)

    def passes_of(self, numbers_per_sample: int) -> list[Pass]:
        """The passes, of fewer runs where a sample needs many numbers."""
        together = max(1, min(SAMPLES_AT_ONCE, NUMBERS_AT_ONCE // numbers_per_sample) // self.size)
        groups = torch.arange(self.runs).split(together)
        return [Pass(rows, slice(int(rows[0]) * self.size, (int(rows[-1]) + 1) * self.size)) for rows in groups]

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
