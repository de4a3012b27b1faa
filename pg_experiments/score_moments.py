"""Moments of the gradient's parts over the episodes of an iteration, exactly: from the gradient of every episode."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.gradients import policy_gradients
from pg_experiments.packing import Packing, Pass
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.rollout import Trajectory

NUMBERS_AT_ONCE = 4_000_000  # of the gradients of single episodes: they are never all there


class ScoreMoments(NamedTuple):
    """Means over a run's episodes, for each parameter of its policy, `[runs, ...]`.

    X = Σₜ ∇log π(aₜ | sₜ) wₜ has the weight wₜ that the algorithm gives to step t, and S = Σₜ ∇log π(aₜ | sₜ) fₜ the
    factor that a constant has in it: with b subtracted from every return, X becomes X - b S.

    Attributes:
        score: mean of Sᵢ.
        product: mean of Xᵢ Sᵢ.
        square: mean of Sᵢ².
    """

    score: Parameters
    product: Parameters
    square: Parameters


def score_moments(
    policy: Policy,
    parameters: Parameters,
    trajectory: Trajectory,
    weight: Float[Tensor, "runs steps envs"],
    factor: Float[Tensor, "runs steps envs"],
) -> ScoreMoments:
    """`ScoreMoments` of an iteration.

    To the code of the gradient every episode is here a run of its own, with the parameters of its run. So its blocks
    are less full than those of all episodes together, and its result has the size of all parameters: some runs follow
    after the others.

    Args:
        policy, parameters: of all runs.
        trajectory: that was played.
        weight, factor: wₜ and fₜ.
    """
    runs, _, envs = trajectory.running.shape
    numbers = envs * sum(part[0].numel() for part in parameters.values())
    found: list[ScoreMoments] = []
    for rows in torch.arange(runs).split(max(1, NUMBERS_AT_ONCE // numbers)):
        own = {name: part[rows].repeat_interleave(envs, 0) for name, part in parameters.items()}
        packing = Packing.of(_by_episode(trajectory.running[rows]), weight.dtype)
        observation, action, *multipliers = (
            packing.pack(_by_episode(part[rows]))
            for part in (trajectory.observation, trajectory.action, weight, factor)
        )
        x, s = (_sums(policy, own, packing, observation, action, each, envs) for each in multipliers)
        found.append(
            ScoreMoments(
                {name: part.mean(1) for name, part in s.items()},
                {name: (part * s[name]).mean(1) for name, part in x.items()},
                {name: part.square().mean(1) for name, part in s.items()},
            )
        )
    joined = (
        {name: torch.cat([part[name] for part in parts]) for name in parameters} for parts in zip(*found, strict=True)
    )
    return ScoreMoments(*joined)


def _sums(
    policy: Policy,
    parameters: Parameters,
    packing: Packing,
    observation: Float[Tensor, "samples observation"],
    action: Tensor,
    multiplier: Float[Tensor, " samples"],
    envs: int,
) -> Parameters:
    """Σₜ ∇log π(aₜ | sₜ) · multiplier of every episode, `[runs, envs, ...]`."""
    share = multiplier * packing.weight

    def objective(distribution: Distribution, blocks: Pass) -> Float[Tensor, " blocks"]:
        return (distribution.log_prob(blocks.of(action)) * blocks.of(share)).sum(1)

    found = policy_gradients(policy, parameters, packing, observation, objective)
    return {name: part.unflatten(0, (-1, envs)) for name, part in found.items()}


def _by_episode(grid: Tensor) -> Tensor:
    """`[runs, steps, envs, ...]` as `[runs · envs, steps, 1, ...]`."""
    return grid.transpose(1, 2).flatten(0, 1)[:, :, None]
