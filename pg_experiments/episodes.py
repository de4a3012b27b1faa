"""Returns and lengths of episodes that go on over the cuts of fixed rollouts."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.rollout import Episodes


class InProgress(NamedTuple):
    """Of each copy's episode: the undiscounted, unscaled sum of its rewards so far, and its steps so far."""

    episode_return: Float[Tensor, "runs envs"]
    length: Int64[Tensor, "runs envs"]

    @staticmethod
    def none_yet(runs: int, num_envs: int) -> "InProgress":
        """Episodes that begin now."""
        return InProgress(
            torch.zeros(runs, num_envs, dtype=torch.float64), torch.zeros(runs, num_envs, dtype=torch.long)
        )


def finished_episodes(
    reward: Float[Tensor, "runs steps envs"], over: Bool[Tensor, "runs steps envs"], before: InProgress
) -> tuple[Episodes, InProgress]:
    """The episodes that a rollout finished, and those that go on.

    With Cₜ = the return in progress before the rollout + r₀ + ... + rₜ, an episode that is over at t and follows one
    that was over at u has the return Cₜ - Cᵤ, and Cₜ when none was.

    Args:
        reward: of each step.
        over: whether an episode ended with it, terminated or truncated.
        before: what was in progress at the beginning.

    Returns:
        An entry of `Episodes` for every step of every copy, which is `finished` where one was.
    """
    steps = over.shape[1]
    total = torch.stack(
        [
            reward.double().cumsum(1) + before.episode_return[:, None],
            (torch.arange(1, steps + 1)[:, None] + before.length[:, None]).double(),
        ]
    )
    last = (
        torch.where(over, torch.arange(1, steps + 1)[:, None], 0).cummax(1).values
    )  # 1 + the latest step that ended one
    padded = torch.cat([torch.zeros_like(total[:, :, :1]), total], 2)
    until_last = padded.gather(2, last.expand_as(total))
    since = total - torch.cat([torch.zeros_like(total[:, :, :1]), until_last[:, :, :-1]], 2)
    going_on = total[:, :, -1] - until_last[:, :, -1]
    episodes = Episodes(since[0].flatten(1), since[1].long().flatten(1), over.flatten(1))
    return episodes, InProgress(going_on[0], going_on[1].long())
