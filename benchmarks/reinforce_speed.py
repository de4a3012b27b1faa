"""Env steps per second on CartPole-v1: this package beside Stable-Baselines3, both measured in one go.

    python benchmarks/reinforce_speed.py            # about eight minutes; needs pip install -e '.[benchmark]'
    python benchmarks/reinforce_speed.py --quick    # one repetition

Everything runs on one thread, with the same networks (64-64, ReLU, separate for policy and value) on both sides. The
sides alternate, so that a machine that slows down slows both. Printed are medians and ratios. These are benchmarks, not
tests: nothing fails when a number is low.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from pg_experiments import compose, train

SETTINGS = ("policy=softmax", "env=cartpole", "logging.progress=none", "evaluation.episodes=1")


def reinforce(runs: int, env_steps: int, *overrides: str) -> float:
    """Env steps per second of training, of all runs together; the final evaluations are not counted."""
    configs = [compose(*SETTINGS, f"total_env_steps={env_steps}", f"seed={seed}", *overrides) for seed in range(runs)]
    results = train(configs)
    training_seconds = max(result.env_steps / result.env_steps_per_second for result in results)
    return sum(result.env_steps for result in results) / training_seconds


def stable_baselines3_a2c(num_envs: int, rollout_steps: int, env_steps: int) -> float:
    """Env steps per second of one A2C run."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env

    networks = {"net_arch": [64, 64], "activation_fn": torch.nn.ReLU}
    model = A2C(
        "MlpPolicy",
        make_vec_env("CartPole-v1", num_envs, seed=0),
        n_steps=rollout_steps,
        policy_kwargs=networks,
        device="cpu",
        seed=0,
    )
    begin = time.perf_counter()
    model.learn(env_steps)
    return env_steps / (time.perf_counter() - begin)


def seconds_to_first_step() -> float:
    """From typing the training command to the end of its first iteration, one copy of the environment."""
    program = (
        "import sys; from pg_experiments import batch, train; "
        "iterate = batch.Batch.iterate; "
        "batch.Batch.iterate = lambda self: (iterate(self), sys.exit(0)); "
        "import tempfile, os; os.chdir(tempfile.mkdtemp()); "
        "sys.argv = ['train', 'policy=softmax', 'env=cartpole', 'env.num_envs=1']; "
        "from pg_experiments.train import main; main()"
    )
    return seconds_of([sys.executable, "-c", program])


def seconds_of(command: list[str]) -> float:
    """Wall-clock seconds of a command."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed on CartPole-v1, beside Stable-Baselines3.")
    parser.add_argument("--quick", action="store_true", help="one repetition instead of five")
    repetitions = 1 if parser.parse_args().quick else 5
    torch.set_num_threads(1)
    one_update = "baseline.updates_per_iteration=1"
    sides: dict[str, Callable[[], float]] = {
        "Stable-Baselines3 A2C, 64 envs x 32 steps": lambda: stable_baselines3_a2c(64, 32, 300_000),
        "REINFORCE with value network, 64 envs": lambda: reinforce(1, 1_000_000, one_update),
        "the same with 3 value updates (the default)": lambda: reinforce(1, 1_000_000),
        "50 runs x 16 envs at once": lambda: reinforce(50, 400_000, one_update, "env.num_envs=16"),
        "50 runs x 16 envs, no baseline": lambda: reinforce(50, 400_000, "baseline=none", "env.num_envs=16"),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, measure in sides.items():
            speeds[name].append(measure())
    reference = statistics.median(speeds[next(iter(sides))])
    print(f"{'env steps per second, one thread':48} {'median':>10} {'lowest':>10} {'ratio':>7}")
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"{name:48} {median:10,.0f} {min(values):10,.0f} {median / reference:7.1f}")
    help_seconds = [seconds_of([sys.executable, "-m", "pg_experiments.train", "--help"]) for _ in range(repetitions)]
    start_seconds = [seconds_to_first_step() for _ in range(repetitions)]
    print(f"\n{'seconds to the first training step':48} {statistics.median(start_seconds):10.2f}")
    print(f"{'seconds of --help':48} {statistics.median(help_seconds):10.2f}")


if __name__ == "__main__":
    main()
