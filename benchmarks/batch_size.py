"""What a run costs in batches of different sizes, on one core: draws docs/batch_size.png.

    python benchmarks/batch_size.py    # about five minutes

Every size is a process of its own, so that its peak memory is its own. The limit of a batch when
`hydra.launcher.max_runs_per_batch` is not given (`pg_experiments/sweeps/sizing.py`) is read off this curve.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

SIZES = (1, 2, 5, 10, 20, 50, 100, 200)
ENV_STEPS = 30_000
CASES = {
    "16 copies, value network": ("env.num_envs=16",),
    "16 copies, no baseline": ("env.num_envs=16", "baseline=none"),
    "64 copies, value network": ("env.num_envs=64",),
}
SETTINGS = ("policy=softmax", "env=cartpole", f"total_env_steps={ENV_STEPS}", "logging.progress=none")


def measure(runs: int, overrides: list[str]) -> None:
    """Train so many runs here, and print seconds per run and peak megabytes."""
    from pg_experiments import compose, train

    configs = [compose(*SETTINGS, *overrides, f"seed={seed}") for seed in range(runs)]
    train(configs[:1])  # whatever happens only once
    begin = time.perf_counter()
    train(configs)
    seconds = time.perf_counter() - begin
    print(seconds / runs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure every case and size, print a table, draw the picture."""
    from matplotlib.figure import Figure

    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, overrides in CASES.items():
        seconds, memory = [], []
        for runs in SIZES:
            command = [sys.executable, __file__, str(runs), *overrides]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            seconds.append(float(answer[-2]))
            memory.append(float(answer[-1]))
            print(f"{name:26} {runs:4} runs  {seconds[-1]:7.3f} s a run  {memory[-1]:7.0f} MB", flush=True)
        left.plot(SIZES, seconds, marker="o", label=name)
        right.plot(SIZES, memory, marker="o", label=name)
    left.set(xscale="log", yscale="log", xlabel="runs in the batch", ylabel="seconds a run")
    right.set(xscale="log", xlabel="runs in the batch", ylabel="peak memory of the process in MB", ylim=(0, None))
    for axes in (left, right):
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    left.set_title(f"CartPole, {ENV_STEPS:,} env steps a run, one core")
    figure.savefig(Path(__file__).resolve().parent.parent / "docs" / "batch_size.png", dpi=120)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]), sys.argv[2:])
    else:
        main()
