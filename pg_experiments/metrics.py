"""Numbers that describe an iteration, one per run."""

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.packing import Packing
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters


def explained_variance(
    values: Float[Tensor, " samples"], returns: Float[Tensor, " samples"], packing: Packing
) -> Float[Tensor, " runs"]:
    """1 - Var(G - b) / Var(G) over the samples of a run: 1 is a perfect baseline, 0 no better than a constant."""
    variance = packing.variance(returns)
    unexplained = packing.variance(returns - values)
    return torch.where(variance > 0, 1 - unexplained / variance, 0.0)


@torch.no_grad()
def mean_kl(
    policy: Policy,
    before: Parameters,
    after: Parameters,
    packing: Packing,
    observation: Float[Tensor, "samples observation"],
) -> Float[Tensor, " runs"]:
    """Mean over a run's samples of KL(policy before ‖ policy after), in nats: how far a step has changed the policy.

    Args:
        policy: of all runs.
        before, after: its parameters.
        packing: gives the blocks.
        observation: of every sample.
    """
    kl = torch.zeros_like(packing.weight)
    for blocks in packing.passes:
        old, new = (
            policy({name: part.index_select(0, blocks.rows) for name, part in own.items()}, blocks.of(observation))
            for own in (before, after)
        )
        blocks.of(kl).copy_(old.kl(new))
    return packing.mean(kl)
