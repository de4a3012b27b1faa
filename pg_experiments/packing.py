"""From a grid of steps x copies, where episodes end at different times, to dense blocks of samples.

Only steps that were really played enter the update. The samples of a run are cut into blocks whose sizes depend on
the run's own number of samples alone, and sums go block by block in order: so a run's gradient is the same in every
bit, whatever other runs are in the batch and however long their episodes are. Blocks of one size, of whatever run, lie
side by side and are computed together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

BLOCK_SIZES = (512, 128, 64)  # as many large ones as a run fills, then smaller ones; the last of a run is filled up
SAMPLES_AT_ONCE = 4096  # that one pass computes: its activations stay in the processor's cache
NUMBERS_AT_ONCE = 4_000_000  # that a layer takes in for them: 16 MB of float32


@dataclass(frozen=True)
class Pass:
    """Some blocks of equal size, side by side among the samples.

    Attributes:
        rows: the run that each block belongs to; a run may have several.
        samples: where they lie.
    """

    rows: Int64[Tensor, " blocks"]
    samples: slice

    def of(self, x: Shaped[Tensor, "samples *rest"]) -> Shaped[Tensor, "blocks size *rest"]:
        """The entries of these blocks: a view."""
        return x[self.samples].unflatten(0, (len(self.rows), -1))


@runtime_checkable
class Samples(Protocol):
    """The samples of some runs, side by side: `Packing`, or `Dense` where all runs have equally many."""

    @property
    def passes(self) -> Sequence[Pass]:
        """All of them, in the order in which sums go."""
        ...

    def passes_of(self, numbers_per_sample: int) -> Sequence[Pass]:
        """The passes, cut into smaller ones where a sample needs many numbers; where they are cut depends on no run."""
        ...

    @property
    def whole_runs(self) -> bool:
        """Whether every run is one block, in the order of the runs, where a single pass holds them all."""
        ...

    def variance(self, x: Float[Tensor, " samples"]) -> Float[Tensor, " runs"]:
        """Mean square deviation from the mean over a run's samples."""
        ...


def block_sizes(count: int) -> list[int]:
    """The blocks that `count` samples are cut into.

    Example:
        >>> block_sizes(1300)
        [512, 512, 128, 128, 64]
    """
    sizes = []
    for size in BLOCK_SIZES:
        sizes += [size] * (count // size)
        count %= size
    return sizes + [BLOCK_SIZES[-1]] * (count > 0)


@dataclass(frozen=True)
class Packing:
    """Where each sample of each run lies in the grid; `samples` counts those of all runs, in the order of the passes.

    Attributes:
        index: position in the grids of all runs, counted step by step ((run · steps + step) · envs + env); what fills
            up a run's last block points to its last sample.
        run: that each sample belongs to.
        weight: 1 for a sample, 0 for what fills up.
        counts: number of samples of each run.
        passes: all blocks, in the order in which sums go.
        shape: of the grid, steps and envs.
    """

    index: Int64[Tensor, " samples"]
    run: Int64[Tensor, " samples"]
    weight: Float[Tensor, " samples"]
    counts: list[int]
    passes: list[Pass]
    shape: tuple[int, int]

    @staticmethod
    def of(running: Bool[Tensor, "runs steps envs"], dtype: torch.dtype) -> "Packing":
        """The packing of all steps that were played (`running`: the episode was not over before the step)."""
        counts = running.flatten(1).sum(1).tolist()
        positions = running.flatten().nonzero()[:, 0]
        first = [sum(counts[:run]) for run in range(len(counts))]
        blocks: dict[int, list[tuple[int, int]]] = {}  # by size: run, and number of its samples before the block
        for run, count in enumerate(counts):
            before = 0
            for size in block_sizes(count):
                blocks.setdefault(size, []).append((run, before))
                before += size
        passes: list[Pass] = []
        index, runs, weights, start = [], [], [], 0
        for size in BLOCK_SIZES:
            together = max(1, SAMPLES_AT_ONCE // size)
            own = blocks.get(size, [])
            for chosen in (own[place : place + together] for place in range(0, len(own), together)):
                rows = torch.tensor([run for run, _ in chosen])
                passes.append(Pass(rows, slice(start, start + len(chosen) * size)))
                start += len(chosen) * size
            if own:
                rows = torch.tensor([run for run, _ in own])
                sample = torch.tensor([before for _, before in own])[:, None] + torch.arange(size)
                last = torch.tensor(counts)[rows, None] - 1
                index.append(positions[(torch.tensor(first)[rows, None] + sample.minimum(last)).flatten()])
                runs.append(rows.repeat_interleave(size))
                weights.append((sample <= last).flatten())
        shape = (running.shape[1], running.shape[2])
        return Packing(torch.cat(index), torch.cat(runs), torch.cat(weights).to(dtype), counts, passes, shape)

    def passes_of(self, numbers_per_sample: int) -> list[Pass]:
        """The passes, cut into smaller ones where a sample needs many numbers; blocks and their order are the same."""
        passes = []
        for whole in self.passes:
            size = (whole.samples.stop - whole.samples.start) // len(whole.rows)
            blocks = max(1, NUMBERS_AT_ONCE // (size * numbers_per_sample))
            for first in range(0, len(whole.rows), blocks):
                rows = whole.rows[first : first + blocks]
                start = whole.samples.start + first * size
                passes.append(Pass(rows, slice(start, start + len(rows) * size)))
        return passes

    @property
    def whole_runs(self) -> bool:
        """A run may have several blocks, in any order."""
        return False

    def pack(self, grid: Shaped[Tensor, "runs steps envs *rest"]) -> Shaped[Tensor, "samples *rest"]:
        """The grid's entries at every sample."""
        return grid.flatten(0, 2)[self.index]

    def unpack(self, x: Shaped[Tensor, " samples"]) -> Shaped[Tensor, "runs steps envs"]:
        """Undo `pack`; zero where no step was played."""
        grid = x.new_zeros(len(self.counts), *self.shape)
        counted = self.weight > 0
        grid.view(-1)[self.index[counted]] = x[counted]
        return grid

    def spread(self, x: Shaped[Tensor, " runs"]) -> Shaped[Tensor, " samples"]:
        """Each run's number at every sample of it."""
        return x[self.run]

    @property
    def step(self) -> Int64[Tensor, " samples"]:
        """The step of its episode that each sample is."""
        steps, envs = self.shape
        return self.index // envs % steps

    def sum(self, x: Float[Tensor, " samples"]) -> Float[Tensor, " runs"]:
        """Σ over a run's samples, block by block."""
        total = x.new_zeros(len(self.counts))
        weighted = x * self.weight
        for blocks in self.passes:
            total.index_add_(0, blocks.rows, blocks.of(weighted).sum(1))
        return total

    def mean(self, x: Float[Tensor, " samples"]) -> Float[Tensor, " runs"]:
        """Mean over a run's samples."""
        return self.sum(x) / torch.tensor(self.counts, dtype=x.dtype)

    def variance(self, x: Float[Tensor, " samples"]) -> Float[Tensor, " runs"]:
        """Mean square deviation from the mean over a run's samples."""
        return self.mean((x - self.spread(self.mean(x))).square())
