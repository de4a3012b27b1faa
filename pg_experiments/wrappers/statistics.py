"""Running mean and variance of vectors, for each run its own, in float64."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.exact import pad_to_lane
from pg_experiments.packing import Packing
from pg_experiments.policies.networks import Parameters

EPSILON = 1e-8  # added to a variance before its root is divided by


class RunningStatistics(NamedTuple):
    """Of all samples so far: how many, their mean, and the sum of their squared deviations from it."""

    samples: Float[Tensor, "runs 1"]
    mean: Float[Tensor, "runs size"]
    square_deviation: Float[Tensor, "runs size"]

    @staticmethod
    def none_yet(runs: int, size: int) -> "RunningStatistics":
        """Of no samples: mean 0, and a spread that counts as 1."""
        zeros = torch.zeros(runs, size, dtype=torch.float64)
        return RunningStatistics(zeros[:, :1].clone(), zeros, zeros.clone())

    @property
    def spread(self) -> Float[Tensor, "runs size"]:
        """√(mean square deviation + 1e-8), which can be divided by; 1 where there are no samples yet."""
        variance = self.square_deviation / self.samples.clamp(min=1)
        return torch.where(self.samples > 0, (variance + EPSILON).sqrt(), 1.0)

    def with_samples(self, samples: Float[Tensor, "samples size"], packing: Packing) -> "RunningStatistics":
        """The statistics of what there was and of an iteration's samples together.

            n = nₐ + n_b,  δ = m_b - mₐ,  m = mₐ + δ n_b / n,  M = Mₐ + M_b + δ² nₐ n_b / n

        Source: Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, eq. 2.1.
        """
        samples = samples.double()
        count = torch.tensor(packing.counts, dtype=torch.float64)[:, None]
        mean = _sum(samples, packing) / count
        square_deviation = _sum((samples - mean[packing.run]).square(), packing)
        total = self.samples + count
        delta = mean - self.mean
        share = count / total
        return RunningStatistics(
            total,
            self.mean + delta * share,
            self.square_deviation + square_deviation + delta.square() * self.samples * share,
        )


def named(statistics: RunningStatistics, prefix: str) -> Parameters:
    """The statistics among other tensors of the runs, by name."""
    return {f"{prefix}{name}": value for name, value in statistics._asdict().items()}


def statistics_of(tensors: Parameters, prefix: str) -> RunningStatistics:
    """Undo `named`."""
    return RunningStatistics(*(tensors[f"{prefix}{name}"] for name in RunningStatistics._fields))


def _sum(x: Float[Tensor, "samples size"], packing: Packing) -> Float[Tensor, "runs size"]:
    """Σ over a run's samples, block by block: each number's samples side by side, as `exact.py` adds them up."""
    columns = (x * packing.weight.double()[:, None]).T
    total = x.new_zeros(len(packing.counts), x.shape[1])
    for blocks in packing.passes:
        own = columns[:, blocks.samples].unflatten(1, (len(blocks.rows), -1)).transpose(0, 1)
        total.index_add_(0, blocks.rows, pad_to_lane(own, -2).contiguous().sum(-1)[:, : x.shape[1]])
    return total
