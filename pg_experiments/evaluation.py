"""How good a trained policy is: fresh episodes, with random numbers of their own."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.special import stdtrit  # Student's t quantile; scipy.stats would take half a second to import

from pg_experiments.envs.checks import name_of
from pg_experiments.envs.interface import Env
from pg_experiments.errors import reason_of
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.randomness import generator_for
from pg_experiments.rollout import Watch, play_episodes


class Evaluation(NamedTuple):
    """Undiscounted returns of the episodes of one run.

    Attributes:
        episodes: how many.
        return_mean, return_std: mean and sample standard deviation (n - 1) of the episode returns.
        length_mean: mean number of steps.
        return_low, return_high: 95 % confidence interval of the mean (Student's t over the episodes).
    """

    episodes: int
    return_mean: float
    return_std: float
    length_mean: float
    return_low: float
    return_high: float


def evaluate_policy(
    policy: Policy,
    parameters: Parameters,
    env: Env,
    seeds: Sequence[int],
    episodes: int,
    dtype: torch.dtype,
    *,
    deterministic: bool = True,
    watch: Watch | None = None,
) -> list[Evaluation]:
    """Play `episodes` episodes with every run's policy; the same seeds give the same episodes.

    Args:
        seeds: one per run.
        deterministic: play the mode of the policy; otherwise sample.
        watch: is called after every few steps, with how many.
    """
    generators = [generator_for(seed, "evaluation") for seed in seeds]
    outcome, _ = play_episodes(
        policy, parameters, env, generators, episodes, dtype, deterministic=deterministic, record=False, watch=watch
    )
    return [
        _summary(returns.double(), lengths.double())
        for returns, lengths in zip(outcome.episode_return, outcome.length, strict=True)
    ]


def evaluate_each(
    policy: Policy,
    parameters: Sequence[Parameters],
    env: Env,
    seeds: Sequence[int],
    episodes: int,
    dtype: torch.dtype,
    *,
    deterministic: bool = True,
    watch: Watch | None = None,
) -> list[Evaluation | str]:
    """Evaluations of runs that have left their batch, together; of a run that raises, what it raised.

    Args:
        parameters, seeds: one per run; its tensors have one row.
        deterministic, watch: as for `evaluate_policy`.
    """
    try:
        together = {name: torch.cat([each[name] for each in parameters]) for name in parameters[0]}
        outcomes = evaluate_policy(
            policy, together, env, seeds, episodes, dtype, deterministic=deterministic, watch=watch
        )
        return [
            one
            if math.isfinite(one.return_mean)
            else f"evaluation: env {name_of(env)}: the mean return is {one.return_mean}, expected a finite number"
            for one in outcomes
        ]
    except Exception as error:  # of a user's environment
        if len(seeds) == 1:
            return [f"evaluation: {reason_of(error)}"]
        return [
            evaluate_each(policy, [own], env, [seed], episodes, dtype, deterministic=deterministic)[0]
            for own, seed in zip(parameters, seeds, strict=True)
        ]


def _summary(returns: torch.Tensor, lengths: torch.Tensor) -> Evaluation:
    episodes, mean = len(returns), float(returns.mean(0))
    std = float(returns.std(0)) if episodes > 1 else 0.0
    half = float(stdtrit(episodes - 1, 0.975)) * std / episodes**0.5 if episodes > 1 and std > 0 else 0.0
    return Evaluation(episodes, mean, std, float(lengths.mean(0)), mean - half, mean + half)
