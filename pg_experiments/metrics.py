"""Numbers that describe an iteration, one per run."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.gradients import passes_for
from pg_experiments.packing import Packing, Samples
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.rollout import Trajectory


def explained_variance(
    values: Float[Tensor, " samples"], returns: Float[Tensor, " samples"], of: Samples
) -> Float[Tensor, " runs"]:
    """1 - Var(G - b) / Var(G) over the samples of a run: 1 is a perfect baseline, 0 no better than a constant."""
    variance = of.variance(returns)
    unexplained = of.variance(returns - values)
    return torch.where(variance > 0, 1 - unexplained / variance, 0.0)


@torch.no_grad()
def mean_kl(policy: Policy, before: Parameters, after: Parameters, trajectory: Trajectory) -> Float[Tensor, " runs"]:
    """Mean over a run's samples of KL(policy before ‖ policy after), in nats: how far a step has changed the policy.

    Args:
        policy: of all runs.
        before, after: its parameters.
        trajectory: gives the samples.
    """
    packing = Packing.of(trajectory.running, trajectory.reward.dtype)
    observation = packing.pack(trajectory.observation)
    kl = torch.zeros_like(packing.weight)
    for blocks in passes_for(policy, packing):
        old, new = (
            policy({name: part.index_select(0, blocks.rows) for name, part in own.items()}, blocks.of(observation))
            for own in (before, after)
        )
        blocks.of(kl).copy_(old.kl(new))
    return packing.mean(kl)


class Means:
    """Means over the updates of an iteration, of which runs need not do equally many.

    Attributes:
        counts: by tag, how many numbers of each run are in the mean.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Int64[Tensor, " runs"]] = {}
        self._sums: dict[tuple[str, ...], Float[Tensor, "tags runs"]] = {}

    def add(self, which: Bool[Tensor, " runs"], numbers: Mapping[str, Float[Tensor, " runs"]]) -> None:
        """Numbers by tag, of those runs for which they count; the same tags are always given together."""
        tags = tuple(numbers)
        counted = torch.where(which, torch.stack(list(numbers.values())), 0.0)
        known = tags in self._sums
        self._sums[tags] = self._sums[tags] + counted if known else counted
        count = self.counts[tags[0]] + which if known else which.long()
        self.counts |= dict.fromkeys(tags, count)

    def values(self) -> dict[str, Float[Tensor, " runs"]]:
        """The means by tag."""
        return {
            tag: total / self.counts[tag]
            for tags, totals in self._sums.items()
            for tag, total in zip(tags, totals, strict=True)
        }
