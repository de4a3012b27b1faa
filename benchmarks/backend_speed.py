"""How much of an environment's own speed REINFORCE and actor_critic keep, on one core.

    python benchmarks/backend_speed.py

For each task: the stepping speed of EnvPool alone, 32 copies on one thread with random actions, and REINFORCE with 32
copies a run: one run on EnvPool, four such runs as one program, and one run on Gymnasium in this process and in
processes; and actor_critic on EnvPool: one run of 32 copies, and 20 runs of 8 in one program.
All are measured in turn, five times, and the medians of the ratios within a turn are printed, because the speed of a
shared machine changes from minute to minute.

What is counted: on EnvPool's own side every copy in every step, also those steps in which it begins a new episode
instead; of REINFORCE the steps that were played in training. Copies whose episode is over wait for the longest one of
their run, and no backend is asked to step them: `steps of finished episodes included` counts them nevertheless, as a
program would that steps all of its copies until the last episode is over. The seconds are those of training with
everything in it: pools, resets, policy, learning.

`with the same pauses` is EnvPool alone again, asked in each step for as many copies as the run asked for in its first
iteration: the part of the difference that is due to the waiting, and to nothing here. So is `with 160 copies`,
as many as the 20 runs have together: the more copies, the less of them is in the processor's caches.
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Sequence
from typing import Any

import envpool
import numpy as np
import torch
from torch import Tensor

from pg_experiments import compose, rollout, train
from pg_experiments.envs.interface import Env, Transition
from pg_experiments.randomness import generator_for
from pg_experiments.rollout import play_episodes
from pg_experiments.runs import build, stack
from pg_experiments.stepping import checked_step

TASKS = {"lunar_lander_continuous": 60_000, "half_cheetah": 64_000}  # env steps of a run
ENVS = 32
INCLUDED = "  steps of finished episodes included"
MANY = "  with 160 copies"
SIDES = {  # algorithm, backend, runs in one program, copies of each
    "one run on EnvPool": ("reinforce", "envpool", 1, ENVS),
    "4 runs in one program on EnvPool": ("reinforce", "envpool", 4, ENVS),
    "one run on Gymnasium, sync": ("reinforce", "sync", 1, ENVS),
    "one run on Gymnasium, async": ("reinforce", "async", 1, ENVS),
    "actor_critic, one run on EnvPool": ("actor_critic", "envpool", 1, ENVS),
    "actor_critic, 20 runs x 8 copies": ("actor_critic", "envpool", 20, 8),
}


def envpool_speed(name: str, seconds: float, playing: Sequence[int]) -> float:
    """Steps per second of EnvPool alone, new random actions in every step.

    Args:
        playing: how many copies are asked for in each step, over and over; there are as many as are ever asked for.
    """
    copies = max(playing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds in float64 for observations in float32
        pool = envpool.make_gymnasium(name, num_envs=copies, num_threads=1, seed=list(range(copies)))
        pool.reset()
        space = pool.action_space
    actions = np.random.default_rng(0).uniform(space.low, space.high, (256, copies, *space.shape)).astype(space.dtype)
    numbers = np.arange(copies, dtype=np.int32)
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        for place, count in enumerate(playing):
            pool.step(actions[place % len(actions), :count], numbers[:count])
        steps += sum(playing)
    return steps / (time.perf_counter() - begin)


def run_speed(task: str, algorithm: str, backend: str, runs: int, envs: int, env_steps: int) -> tuple[float, float]:
    """Steps per second of training, of all runs together: those that were played, and with those of waiting copies."""
    asked = 0

    def counted_step(env: Env, state: Any, action: Tensor, running: Tensor, *rest: Any) -> Transition:
        nonlocal asked
        asked += running.numel() if running.shape[1] == envs else 0  # not those of the evaluation
        return checked_step(env, state, action, running, *rest)

    rollout.checked_step = counted_step  # type: ignore[assignment, attr-defined]
    configs = [
        compose(
            f"env={task}",
            f"algorithm={algorithm}",
            f"env.num_envs={envs}",
            f"env.backend={backend}",
            f"total_env_steps={env_steps}",
            f"seed={seed}",
            "evaluation.episodes=1",
            "logging.progress=none",
        )
        for seed in range(runs)
    ]
    results = train(configs)
    assert {result.status for result in results} == {"completed"}, results[0].error
    seconds = max(result.env_steps / result.env_steps_per_second for result in results)
    return sum(result.env_steps for result in results) / seconds, asked / seconds


def playing_copies(task: str) -> list[int]:
    """How many copies play in each step of the first iteration of a run."""
    parts = build(stack([compose(f"env={task}", f"env.num_envs={ENVS}")]))
    generator = generator_for(0, "rollout")
    parameters = parts.policy.init([generator_for(0, "parameters")], torch.float32)
    _, trajectory = play_episodes(parts.policy, parameters, parts.env, [generator], ENVS, torch.float32)
    assert trajectory is not None
    return [count for count in trajectory.running.sum((0, 2)).tolist() if count]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="how often (default: 5)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # processes that are started inherit it
    torch.set_num_threads(1)
    for task in options.tasks:
        env_id, playing = compose(f"env={task}").env.id, playing_copies(task)
        speeds: dict[str, list[float]] = {}
        for _ in range(options.turns):
            speeds.setdefault("EnvPool alone, random actions", []).append(envpool_speed(env_id, 2.0, [ENVS] * 64))
            speeds.setdefault("  with the same pauses", []).append(envpool_speed(env_id, 2.0, playing))
            speeds.setdefault(MANY, []).append(envpool_speed(env_id, 2.0, [20 * 8] * 64))
            for side, (algorithm, backend, runs, envs) in SIDES.items():
                env_steps = TASKS[task] // (4 if runs > 4 else 1)
                played, asked = run_speed(task, algorithm, backend, runs, envs, env_steps)
                speeds.setdefault(side, []).append(played)
                if algorithm == "reinforce":
                    speeds.setdefault(f"{side}{INCLUDED}", []).append(asked)
        first = next(iter(speeds.values()))
        occupied = sum(playing) / len(playing) / ENVS
        print(f"{env_id}; medians of {options.turns}; of REINFORCE's {ENVS} copies {occupied:.0%} play on average")
        for side, values in speeds.items():
            ratios = [value / raw for value, raw in zip(values, first, strict=True)]
            spread = f"({min(ratios):.0%} to {max(ratios):.0%})"
            name = INCLUDED if side.endswith(INCLUDED) else side
            print(f"  {name:38}{statistics.median(values):10,.0f} steps/s {statistics.median(ratios):5.0%} {spread}")
        last = zip(speeds[next(reversed(SIDES))], speeds[MANY], strict=True)
        ratios = [value / raw for value, raw in last]
        print(f"  {'  of EnvPool with as many copies':38}{statistics.median(ratios):24.0%} ", end="")
        print(f"({min(ratios):.0%} to {max(ratios):.0%})")


if __name__ == "__main__":
    main()
