"""What is learned from instead of the environment's rewards; the returns that are reported stay the environment's."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pg_experiments.exact import per_run
from pg_experiments.packing import Packing
from pg_experiments.wrapper_config import ClipRewardConfig, NormalizeReturnConfig, ScaleRewardConfig
from pg_experiments.wrappers.statistics import RunningStatistics

RewardWrapper = ScaleRewardConfig | ClipRewardConfig | NormalizeReturnConfig


def learned_reward(
    wrappers: Sequence[RewardWrapper],
    reward: Float[Tensor, "runs steps envs"],
    running: Bool[Tensor, "runs steps envs"],
    gamma: Float[Tensor, " runs"],
    statistics: RunningStatistics | None,
    before: Float[Tensor, "runs envs"] | None = None,
    over: Bool[Tensor, "runs steps envs"] | None = None,
) -> tuple[Float[Tensor, "runs steps envs"], RunningStatistics | None, Float[Tensor, "runs envs"] | None]:
    """The rewards as every wrapper in turn changes them; zero after the end of an episode.

    `scale_reward` multiplies, `clip_reward` cuts off. `normalize_return` divides by the standard deviation of

        Rₜ = γ Rₜ₋₁ + rₜ,  with 0 for what was before the beginning of an episode

    over all steps of the iterations that are complete, and cuts off at ±`limit`: the scale is fixed before the episodes
    are played, so the gradient keeps its direction on average. The first iteration's rewards stay as they are, but for
    the limit.

    Source: Engstrom et al. (2020), Implementation matters in deep policy gradients, arXiv:2005.12729, section 3.

    Args:
        wrappers: in the order in which they are listed.
        reward: of an iteration.
        running: True where a step was played.
        gamma: discount of each run.
        statistics: of R, of the iterations before; None without `normalize_return`.
        before: of a fixed rollout, R of each copy's episode at its beginning.
        over: of a fixed rollout, the last steps of episodes.

    Returns:
        The rewards, the statistics with this iteration's, and R of the episodes that go on.
    """
    for wrapper in wrappers:
        if isinstance(wrapper, ScaleRewardConfig):
            reward = reward * wrapper.factor
        elif isinstance(wrapper, ClipRewardConfig):
            reward = reward.clamp(wrapper.low, wrapper.high)
        else:
            assert statistics is not None
            packing = Packing.of(running, reward.dtype)
            so_far, before = _discounted_so_far(reward, gamma, before, over)
            seen = packing.pack(so_far)[:, None]
            scale = 1 / statistics.spread[:, 0]
            statistics = statistics.with_samples(seen, packing)
            reward = (reward * per_run(scale.to(reward.dtype), reward)).clamp(-wrapper.limit, wrapper.limit)
    return torch.where(running, reward, 0.0), statistics, before


def _discounted_so_far(
    reward: Float[Tensor, "runs steps envs"],
    gamma: Float[Tensor, " runs"],
    before: Float[Tensor, "runs envs"] | None,
    over: Bool[Tensor, "runs steps envs"] | None,
) -> tuple[Float[Tensor, "runs steps envs"], Float[Tensor, "runs envs"] | None]:
    """R after every step, and what the next rollout begins with; None where episodes do not go on."""
    discount = per_run(gamma.to(reward.dtype), reward[:, 0])
    so_far, forwards = torch.zeros_like(reward[:, 0]) if before is None else before.to(reward.dtype), []
    for step, reward_now in enumerate(reward.unbind(1)):
        so_far = discount * so_far + reward_now
        forwards.append(so_far)
        if over is not None:
            so_far = torch.where(over[:, step], 0.0, so_far)
    return torch.stack(forwards, 1), None if before is None else so_far.to(before.dtype)
