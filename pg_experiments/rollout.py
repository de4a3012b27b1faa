"""Rollouts: policy and environment playing whole episodes, all copies of all runs at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Generator, Tensor

from pg_experiments.envs.interface import Env
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters

CHUNK = 64  # steps whose noise is drawn at a time; finished runs leave between chunks
LOOK_EVERY = 8  # steps between two looks whether any copy is still playing


class Trajectory(NamedTuple):
    """What the policies saw and did, one complete episode per copy. `reward[:, t]` is the reward for `action[:, t]`.

    `running` is True for the steps that were played. After a copy's last step, reward and flags are zero, observation
    and action mean nothing. `terminated` and `truncated` mark that last step: the task ended, or a time limit cut it
    off.
    """

    observation: Float[Tensor, "runs steps envs observation"]
    action: Num[Tensor, "runs steps envs *action"]
    reward: Float[Tensor, "runs steps envs"]
    terminated: Bool[Tensor, "runs steps envs"]
    truncated: Bool[Tensor, "runs steps envs"]
    running: Bool[Tensor, "runs steps envs"]


class Episodes(NamedTuple):
    """The outcome of the episodes: undiscounted and unscaled sum of rewards, and number of steps."""

    episode_return: Float[Tensor, "runs envs"]
    length: Int64[Tensor, "runs envs"]


@torch.no_grad()
def play_episodes(
    policy: Policy,
    parameters: Parameters,
    env: Env,
    generators: Sequence[Generator],
    num_envs: int,
    dtype: torch.dtype,
    *,
    deterministic: bool = False,
    record: bool = True,
) -> tuple[Episodes, Trajectory | None]:
    """Play exactly one episode in every copy of every run.

    Taking each copy's one episode, rather than the first N that finish, favours no short ones. Each run's generator
    gives, in this order, the noise of its resets and then, chunk by chunk of 64 steps until all of its copies have
    finished, the noise of its actions: nothing depends on the other runs.

    Args:
        policy, parameters, env: of the batch of runs.
        generators: one per run.
        num_envs: copies per run.
        dtype: of all real numbers.
        deterministic: play the mode of the policy instead of a sample (the same noise is drawn).
        record: keep the trajectory; otherwise the second result is None.

    Returns:
        The outcomes, and the trajectory.
    """
    runs, spec = len(generators), env.spec
    noise = [torch.rand(num_envs, spec.reset_noise_size, generator=generator, dtype=dtype) for generator in generators]
    state, observation = env.reset(torch.stack(noise))
    act = policy.actor(parameters)
    rows = torch.arange(runs)
    running = torch.ones(runs, num_envs, dtype=torch.bool)
    episode_return = torch.zeros(runs, num_envs, dtype=dtype)
    length = torch.zeros(runs, num_envs, dtype=torch.long)
    chunks: list[tuple[Tensor, Trajectory]] = []
    steps = 0
    while len(rows):
        action_noise = [policy.draw_noise(generators[row], (CHUNK, num_envs), dtype) for row in rows.tolist()]
        played: list[tuple[Tensor, ...]] = []
        for noise_now in torch.stack(action_noise).unbind(1):
            distribution = act(observation)
            action = distribution.mode() if deterministic else distribution.sample(noise_now)
            after = env.step(state, policy.env_action(action), running)
            played.append((observation, action, after.reward, after.terminated, after.truncated, running))
            state, observation = after.state, after.observation
            running = running > (after.terminated | after.truncated)
            steps += 1
            if steps >= spec.max_episode_steps or (steps % LOOK_EVERY == 0 and not running.any()):
                break
        kept = played if record else [(step[0][..., :0], *step[1:]) for step in played]
        chunk = _chunk([torch.stack(part, 1) for part in zip(*kept, strict=True)])
        if steps >= spec.max_episode_steps:
            chunk.truncated[:, -1] |= running
            running = torch.zeros_like(running)
        # a running sum adds the zeros after a run's last episode one by one, however many they are
        episode_return[rows] += chunk.reward.cumsum(1)[:, -1]
        length[rows] += chunk.running.sum(1)
        if record:
            chunks.append((rows, chunk))
        keep = running.any(1).nonzero()[:, 0]
        if len(keep) < len(rows):
            rows, running, observation = rows[keep], running[keep], observation[keep]
            parameters = {name: parameter[keep] for name, parameter in parameters.items()}
            act = policy.actor(parameters)
            state = env.select(state, keep)
    return Episodes(episode_return, length), _join(chunks, runs) if record else None


def _chunk(parts: Sequence[Tensor]) -> Trajectory:
    """Steps as they were computed for all copies -> zero where a copy's episode was over."""
    observation, action, reward, terminated, truncated, running = parts
    terminated = terminated & running
    truncated = truncated & running & ~terminated
    return Trajectory(observation, action, torch.where(running, reward, 0.0), terminated, truncated, running)


def _join(chunks: Sequence[tuple[Tensor, Trajectory]], runs: int) -> Trajectory:
    """One grid of all chunks; runs that had left by then are zero there."""
    return Trajectory(
        *(
            torch.cat([_all_rows(rows, part, runs) for (rows, _), part in zip(chunks, parts, strict=True)], 1)
            for parts in zip(*(chunk for _, chunk in chunks), strict=True)
        )
    )


def _all_rows(rows: Int64[Tensor, " rows"], part: Tensor, runs: int) -> Tensor:
    if len(rows) == runs:
        return part
    grid = part.new_zeros(runs, *part.shape[1:])
    grid[rows] = part
    return grid
