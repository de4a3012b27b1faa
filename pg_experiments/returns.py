"""Returns: what a step's action is credited with."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pg_experiments.exact import per_run


def rewards_to_go(
    reward: Float[Tensor, "runs steps envs"], gamma: Float[Tensor, " runs"]
) -> Float[Tensor, "runs steps envs"]:
    """Discounted sum of the rewards from each step to the end of its episode.

        Gₜ = rₜ + γ Gₜ₊₁, and 0 after the end of the episode

    For whole episodes: nothing is added at the end, whether the task terminated or the time limit truncated it, so this
    is the return *within the time limit*.

    Source: Sutton and Barto (2018), eq. 3.9.

    Args:
        reward: rₜ, the reward for the action of step t; zero after the end of an episode.
        gamma: discount of each run, in [0, 1].
    """
    discount = per_run(gamma.to(reward.dtype), reward[:, 0])
    following = torch.zeros_like(reward[:, 0])
    backwards = []
    for reward_now in reversed(reward.unbind(1)):
        following = (discount * following).add_(reward_now)
        backwards.append(following)
    return torch.stack(backwards[::-1], 1)


def whole_returns(
    rewards_to_go: Float[Tensor, "runs steps envs"], running: Bool[Tensor, "runs steps envs"]
) -> Float[Tensor, "runs steps envs"]:
    """G₀ = Σₖ γᵏ rₖ, the return of the whole episode, at each of its steps, and 0 after its end.

    Source: Williams (1992), episodic REINFORCE.

    Args:
        rewards_to_go: Gₜ.
        running: True where a step was played.
    """
    return torch.where(running, rewards_to_go[:, :1], 0.0)
