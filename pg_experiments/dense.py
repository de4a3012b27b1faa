"""The samples of fixed rollouts: every run has equally many, so that they lie side by side without gaps."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pg_experiments.devices import here
from pg_experiments.packing import NUMBERS_AT_ONCE, Pass

SAMPLES_OF_A_PASS = 5_120  # at most, unless one run has more: fewer stay in a nearer cache, and take more passes


@dataclass(frozen=True)
class Dense:
    """The samples of all runs, run by run; the same methods as `Packing`, whose blocks depend on a run's own count.

    A pass holds whole runs, some thousand samples of them, and at least one; or a part of one run, where all of its
    samples need too many numbers.

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

    @property
    def passes(self) -> list[Pass]:
        """Some runs after the others."""
        return self.passes_of(1)

    def passes_of(self, numbers_per_sample: int) -> list[Pass]:
        """The same with fewer runs at once where a sample needs many numbers, and at last with parts of one."""
        most = max(1, NUMBERS_AT_ONCE // numbers_per_sample)
        return _passes(self.runs, self.size, min(SAMPLES_OF_A_PASS, most), most, here())

    def is_whole(self, numbers_per_sample: int) -> bool:
        """Whether each of these passes holds all samples of its runs."""
        return self.size <= NUMBERS_AT_ONCE // numbers_per_sample

    @property
    def counts(self) -> list[int]:
        """Number of samples of each run."""
        return [self.size] * self.runs

    def pack(self, grid: Shaped[Tensor, "runs steps envs *rest"]) -> Shaped[Tensor, "samples *rest"]:
        """The grid's entries at every sample: a view."""
        return grid.flatten(0, 2)

    def spread(self, x: Shaped[Tensor, " runs"]) -> Shaped[Tensor, " samples"]:
        """Each run's number at every sample of it."""
        return x[:, None].expand(-1, self.size).flatten()

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
        centred = x.view(self.runs, self.size) - self.mean(x)[:, None]
        deviation = (centred.square().sum(1) / self.size).sqrt()
        return (centred / (deviation[:, None] + 1e-8)).flatten()


@lru_cache(maxsize=100)
@torch.inference_mode(False)  # it is kept
def _passes(runs: int, size: int, at_once: int, most: int, device: torch.device) -> list[Pass]:
    """On a device, of about equally many runs with at most `at_once` samples; of parts of a run of more than `most`."""
    if size > most:
        return [
            Pass(torch.tensor([run], device=device), slice(first, min(first + most, (run + 1) * size)))
            for run in range(runs)
            for first in range(run * size, (run + 1) * size, most)
        ]
    groups = torch.arange(runs, device=device).tensor_split(-(-runs // max(1, at_once // size)))
    return [Pass(rows, slice(int(rows[0]) * size, (int(rows[-1]) + 1) * size)) for rows in groups]
