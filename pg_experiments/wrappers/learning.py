"""The statistics of a batch of runs, and what an iteration's trajectory becomes before it is learned from."""

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.algorithms.interface import rollout_steps_of
from pg_experiments.packing import Packing
from pg_experiments.policies.networks import Parameters
from pg_experiments.rollout import Trajectory
from pg_experiments.runs import Parts
from pg_experiments.wrapper_config import NormalizeReturnConfig
from pg_experiments.wrappers.normalize_observation import PREFIX, NormalizedPolicy
from pg_experiments.wrappers.rewards import learned_reward
from pg_experiments.wrappers.statistics import RunningStatistics, named, statistics_of

RETURN_PREFIX = "return_statistics."
RETURN_IN_PROGRESS = "return_in_progress"  # of each copy's episode, where it goes on over iterations


def first_statistics(parts: Parts, runs: int, num_envs: int) -> Parameters:
    """What the run's wrappers know at its beginning, by full name; empty where none is normalised."""
    statistics: Parameters = {}
    if isinstance(parts.policy, NormalizedPolicy):
        statistics |= named(RunningStatistics.none_yet(runs, parts.policy.size), PREFIX)
    if any(isinstance(each, NormalizeReturnConfig) for each in parts.rewards):
        statistics |= named(RunningStatistics.none_yet(runs, 1), RETURN_PREFIX)
        if rollout_steps_of(parts.algorithm) is not None:
            statistics[RETURN_IN_PROGRESS] = torch.zeros(runs, num_envs, dtype=torch.float64)
    return statistics


def of_the_policy(statistics: Parameters) -> Parameters:
    """Those that belong to the policy and are saved with it."""
    return {name: value for name, value in statistics.items() if name.startswith(PREFIX)}


def as_learned(
    parts: Parts, statistics: Parameters, trajectory: Trajectory, gamma: Float[Tensor, " runs"]
) -> tuple[Trajectory, Parameters]:
    """The trajectory with the observations that the policy saw and with the rewards that count.

    Args:
        parts: of the runs.
        statistics: with which the trajectory was played.
        trajectory: as the environment made it.
        gamma: discount of each run.

    Returns:
        The trajectory, and the statistics with what is in it.
    """
    after: Parameters = {}
    observation, next_observation = trajectory.observation, trajectory.next_observation
    if isinstance(parts.policy, NormalizedPolicy):
        seen = statistics_of(statistics, PREFIX)
        packing = Packing.of(trajectory.running, observation.dtype)
        samples = packing.pack(observation)[:, : parts.policy.size]
        after |= named(seen.with_samples(samples, packing), PREFIX)
        normalize = parts.policy.normalizer(seen, observation.dtype)
        observation = normalize(observation)
        next_observation = None if next_observation is None else normalize(next_observation)
    returns = statistics_of(statistics, RETURN_PREFIX) if f"{RETURN_PREFIX}samples" in statistics else None
    reward = trajectory.reward
    if parts.rewards:
        over = trajectory.terminated | trajectory.truncated
        before = statistics.get(RETURN_IN_PROGRESS)
        reward, returns, so_far = learned_reward(
            parts.rewards, reward, trajectory.running, gamma, returns, before, None if before is None else over
        )
        if so_far is not None:
            after[RETURN_IN_PROGRESS] = so_far
    if returns is not None:
        after |= named(returns, RETURN_PREFIX)
    return trajectory._replace(observation=observation, next_observation=next_observation, reward=reward), after
