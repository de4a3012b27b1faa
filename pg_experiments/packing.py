"""From a grid of steps x copies, where episodes end at different times, to dense blocks of samples.

Only steps that were really played enter the update. The samples of a run are cut into blocks whose sizes depend on
the run's own number of samples alone, and sums go block by block in order: so a run's gradient is the same in every
bit, whatever other runs are in the batch and however long their episodes are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from pg_experiments.policies.networks import Parameters

BLOCK = 2048  # samples of a full block
SMALLEST_BLOCK = 64  # the last block of a run holds the rest: a power of two from this up to FINE, ...
FINE = 256  # ... and beyond it a multiple of this
SAMPLES_AT_ONCE = 8192  # rows x block that one pass computes: its activations stay in the processor's cache


@dataclass(frozen=True)
class Block:
    """One block of the same place and size in some runs."""

    rows: Int64[Tensor, " rows"]
    samples: slice


def block_sizes(count: int) -> list[int]:
    """The blocks that `count` samples are cut into.

    Example:
        >>> block_sizes(4500)
        [2048, 2048, 512]
    """
    rest = count % BLOCK
    tail = max(SMALLEST_BLOCK, 1 << (rest - 1).bit_length()) if rest <= FINE else -(-rest // FINE) * FINE
    return [BLOCK] * (count // BLOCK) + [tail] * (rest > 0)


@dataclass(frozen=True)
class Packing:
    """Where each sample of each run lies in the grid.

    Attributes:
        index: position in the run's grid, counted step by step (step · envs + env); filled up with 0.
        weight: 1 for a sample, 0 for what fills up the last block.
        counts: number of samples of each run.
    """

    index: Int64[Tensor, "runs samples"]
    weight: Float[Tensor, "runs samples"]
    counts: list[int]

    @staticmethod
    def of(running: Bool[Tensor, "runs steps envs"], dtype: torch.dtype) -> "Packing":
        """The packing of all steps that were played (`running`: the episode was not over before the step)."""
        flat = running.flatten(1)
        counts = flat.sum(1)
        capacity = max(sum(block_sizes(count)) for count in counts.tolist())
        run, position = flat.nonzero(as_tuple=True)
        first = counts.cumsum(0) - counts
        offset = torch.arange(len(run)) - first[run]
        index = torch.zeros(len(flat), capacity, dtype=torch.long)
        index[run, offset] = position
        weight = torch.zeros(len(flat), capacity, dtype=dtype)
        weight[run, offset] = 1.0
        return Packing(index, weight, counts.tolist())

    def pack(self, grid: Shaped[Tensor, "runs steps envs *rest"]) -> Shaped[Tensor, "runs samples *rest"]:
        """The grid's entries at every sample."""
        flat = grid.flatten(1, 2)
        first = torch.arange(len(flat))[:, None] * flat.shape[1]
        return flat.flatten(0, 1)[self.index + first]

    @cached_property
    def blocks(self) -> list[Block]:
        """All blocks, in the order in which sums go."""
        places: dict[tuple[int, int], list[int]] = {}
        for run, count in enumerate(self.counts):
            start = 0
            for size in block_sizes(count):
                places.setdefault((start, size), []).append(run)
                start += size
        return [
            Block(rows, slice(start, start + size))
            for (start, size), runs in sorted(places.items())
            for rows in torch.tensor(runs).split(max(1, SAMPLES_AT_ONCE // size))
        ]

    def sum(self, x: Float[Tensor, "runs samples"]) -> Float[Tensor, " runs"]:
        """Σ over a run's samples, block by block."""
        total = x.new_zeros(len(self.counts))
        weighted = x * self.weight
        for block in self.blocks:
            total.index_add_(0, block.rows, weighted[block.rows, block.samples].sum(1))
        return total

    def mean(self, x: Float[Tensor, "runs samples"]) -> Float[Tensor, " runs"]:
        """Mean over a run's samples."""
        return self.sum(x) / torch.tensor(self.counts, dtype=x.dtype)

    def variance(self, x: Float[Tensor, "runs samples"]) -> Float[Tensor, " runs"]:
        """Mean square deviation from the mean over a run's samples."""
        return self.mean((x - self.mean(x)[:, None]).square())


def gradients(
    parameters: Parameters, packing: Packing, loss: Callable[[Parameters, Block], Float[Tensor, " rows"]]
) -> Parameters:
    """Gradient of Σ over blocks of `loss`, for each run its own.

    Args:
        parameters: of all runs.
        packing: gives the blocks.
        loss: from the parameters of a block's rows, and the block, to one number per row: the sum over its samples.
    """
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for block, leaves in _leaves(parameters, packing):
        parts = torch.autograd.grad(loss(leaves, block).sum(), list(leaves.values()), materialize_grads=True)
        for name, part in zip(leaves, parts, strict=True):
            total[name].index_add_(0, block.rows, part)
    return total


def _leaves(parameters: Parameters, packing: Packing) -> Iterator[tuple[Block, Parameters]]:
    for block in packing.blocks:
        yield block, {name: parameter[block.rows].requires_grad_() for name, parameter in parameters.items()}
