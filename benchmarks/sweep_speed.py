"""A sweep of fifty runs on CartPole-v1 beside one run, and beside Stable-Baselines3, all measured in one go.

    python benchmarks/sweep_speed.py            # about half an hour; needs pip install -e '.[benchmark]'
    python benchmarks/sweep_speed.py --quick    # one repetition

Every side is a process of its own with a fixed number of cores; the sides alternate, so that a machine that slows down
slows all. Printed are medians and ratios. These are benchmarks, not tests: nothing fails when a number is low.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SETTINGS = ("policy=softmax", "env=cartpole", "env.num_envs=16", "total_env_steps=200_000")
GRID = ("optimizer.lr=1e-3,2e-3,3e-3,5e-3,1e-2", "seed=range(10)")
VARIANTS = {
    "one value update": ("baseline.updates_per_iteration=1",),
    "default: three value updates": (),
    "no baseline": ("baseline=none",),
}
A2C_STEPS = 200_000
A2C = f"""
import time, torch
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
networks = dict(net_arch=[64, 64], activation_fn=torch.nn.ReLU)
model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 16, seed=0), n_steps=32, policy_kwargs=networks, device="cpu")
begin = time.perf_counter()
model.learn({A2C_STEPS})
print(time.perf_counter() - begin)
"""
TINY = ("policy=softmax", "env=cartpole", "env.num_envs=1", "total_env_steps=1", "evaluation.episodes=1")
TRAINING_ALONE = """
import sys, time
from pg_experiments import compose, train
runs, overrides = int(sys.argv[1]), sys.argv[2:]
configs = [compose(*overrides, "logging.progress=none", f"seed={seed}") for seed in range(runs)]
seconds = 0.0
for first in range(0, runs, 50):
    begin = time.perf_counter()
    train(configs[first : first + 50])
    seconds += time.perf_counter() - begin
print(seconds)
"""


@dataclass
class Sweep:
    """What one sweep took.

    Attributes:
        training_seconds: from the first batch's beginning to the last one's end, evaluation included.
        command_seconds: the whole command.
        env_steps: of all runs.
        peak_bytes: of all its processes together, shared memory counted once.
    """

    training_seconds: float
    command_seconds: float
    env_steps: int
    peak_bytes: int


def run_sweep(overrides: Sequence[str], cores: int) -> Sweep:
    """Type the training command on so many cores and read what its jobs left."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pg_experiments.train", "-m", *overrides, f"hydra.sweep.dir={folder}/sweep"]
        command += [f"hydra.launcher.workers={cores}", "logging.progress=none"]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=lambda: _take_cores(cores))
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(1.0)  # looking more often takes several percent of the time
        seconds = time.perf_counter() - begin
        if process.returncode:
            raise SystemExit(f"the sweep ended with exit code {process.returncode}")
        results = [json.loads(path.read_text()) for path in Path(folder).glob("sweep/*/result.json")]
    training = max(result["wall_seconds"] for result in results)
    return Sweep(training, seconds, sum(result["env_steps"] for result in results), peak)


def training_seconds(runs: int) -> float:
    """What training takes of many tiny jobs: as many together, without launcher, folders and files."""
    command = [sys.executable, "-c", TRAINING_ALONE, str(runs), *TINY]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=lambda: _take_cores(1))
    return float(answer.stdout.split()[-1])


def a2c_env_steps_per_second(cores: int) -> float:
    """One run of Stable-Baselines3's A2C, 16 envs x 32 steps, on so many cores and threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(cores), "MKL_NUM_THREADS": str(cores)}
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", A2C],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        preexec_fn=lambda: _take_cores(cores),
    )
    return A2C_STEPS / float(answer.stdout.split()[-1])


def _take_cores(cores: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def _memory(pid: int) -> int:
    """Proportional set size of a process and everything it has started, in bytes."""
    total = 0
    for process in [pid, *_descendants(pid)]:
        with suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                total += int(line.split()[1]) * 1024 if line.startswith("Pss:") else 0
    return total


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                child = int(path.parent.name)
                found += [child, *_descendants(child)]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A sweep of fifty runs beside one run and Stable-Baselines3.")
    parser.add_argument("--quick", action="store_true", help="one repetition instead of five")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS, help="of the baseline")
    options = parser.parse_args()
    repetitions = 1 if options.quick else 5
    sweeps: dict[tuple[str, int, int], list[Sweep]] = {}
    a2c: dict[int, list[float]] = {1: [], 2: []}
    jobs: list[Sweep] = []
    few: list[Sweep] = []
    plain: list[float] = []
    for _ in range(repetitions):
        for cores in a2c:
            a2c[cores].append(a2c_env_steps_per_second(cores))
        for name in options.variants:
            extra = VARIANTS[name]
            for runs, cores, grid in ((1, 1, ("seed=0",)), (50, 1, GRID), (50, 2, GRID)):
                sweeps.setdefault((name, runs, cores), []).append(run_sweep([*SETTINGS, *extra, *grid], cores))
        few.append(run_sweep([*TINY, "seed=range(10)"], 1))
        jobs.append(run_sweep([*TINY, "seed=range(210)", "hydra.launcher.max_runs_per_batch=50"], 1))
        plain.append(training_seconds(210) - training_seconds(10))
    print(f"CartPole-v1, {' '.join(SETTINGS)}; medians of {repetitions}; lr x seeds: {' '.join(GRID)}")
    for cores, speeds in a2c.items():
        print(f"Stable-Baselines3 A2C, 16 envs x 32 steps, {cores} cores: {statistics.median(speeds):,.0f} env steps/s")
    header = f"{'':32}{'runs':>5}{'cores':>6}{'training s':>11}{'x one run':>10}{'env steps/s':>12}{'x A2C':>7}"
    print(f"{header}{'command s':>11}{'peak MB':>9}")
    for (name, runs, cores), goes in sweeps.items():
        seconds = statistics.median(one.training_seconds for one in goes)
        alone = statistics.median(one.training_seconds for one in sweeps[name, 1, 1])
        speed = statistics.median(one.env_steps / one.training_seconds for one in goes)
        command = statistics.median(one.command_seconds for one in goes)
        peak = statistics.median(one.peak_bytes for one in goes) / 1e6
        print(
            f"{name:32}{runs:5}{cores:6}{seconds:11.2f}{seconds / alone:10.1f}{speed:12,.0f}"
            f"{speed / statistics.median(a2c[cores]):7.1f}{command:11.2f}{peak:9,.0f}"
        )
    slopes = [(b.command_seconds - a.command_seconds) / 200 for a, b in zip(few, jobs, strict=True)]
    beyond = statistics.median(slope - training / 200 for slope, training in zip(slopes, plain, strict=True))
    print(f"launcher, folders and files, beyond training: {beyond * 1e3:.1f} ms a job; ", end="")
    print(f"with one iteration of one episode and its evaluation: {statistics.median(slopes) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
