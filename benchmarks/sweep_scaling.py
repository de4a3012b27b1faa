"""Where a sweep on a cluster stops scaling: constants measured on this machine, and a model made of them.

    python benchmarks/sweep_scaling.py --picture docs/sweep_scaling.png

The model is of `hydra.launcher.backend=ray` or `submitit`, W workers, J jobs of one structure in B batches of n runs:

    wall(W) = launcher start + J (compose + write .hydra) + worker start + ceil(B / W) (first + n each)

Launcher and disk serve one job after the other, so their share does not shrink with W. `each` holds the run's training,
evaluation and files; `first` is what a batch costs before it has any run. Efficiency is wall(1) / (W wall(W)).
"""

import argparse
import contextlib
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from pg_experiments import compose, train
from pg_experiments.composition import conf_dir, register
from pg_experiments.memory import seldom_collected
from pg_experiments.sweeps.jobs import Composer, Job, write_hydra_folder
from pg_experiments.sweeps.sizing import MOST_RUNS

SETTINGS = ("policy=softmax", "env=cartpole", "logging.progress=none")
STEPS = 40_000  # of a run that is measured
WORKERS = (1, 10, 100, 1000)
SHORT = ("total_env_steps=100", "evaluation.episodes=1")  # so short that a run's files are most of it
COMPOSED = 200  # jobs that are composed to measure one


@dataclass(frozen=True)
class Constants:
    """Seconds, measured.

    Attributes:
        launcher_start: from the command until the first job is composed, and its end.
        worker_start: a new Python that has imported all a worker needs.
        compose: of a job, checks included.
        write: of a job's `.hydra` folder by the launcher.
        first, each: of a batch of n runs of `STEPS` env steps: first + n each.
        files: of a job, written by its worker: what folders add to a run.
    """

    launcher_start: float
    worker_start: float
    compose: float
    write: float
    first: float
    each: float
    files: float


def measure() -> Constants:
    """All constants; about a minute and a half."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        launcher = _command(
            ["-m", "pg_experiments.train", "-m", *SETTINGS, "seed=0", "hydra.sweep.dir=s"], folder, True
        )
        worker = _command(["-c", "import pg_experiments.training, torch.utils.tensorboard.summary"], folder)
        composing, jobs = _composed(folder)
        begin = time.perf_counter()
        for job in jobs:
            write_hydra_folder(job)
        writing = (time.perf_counter() - begin) / len(jobs)
        _batch(1, None)  # warm
        one, many = _batch(1, folder / "one"), _batch(MOST_RUNS, folder / "many")
        with_files = min(_batch(MOST_RUNS, folder / f"short{again}", SHORT) for again in range(3))
        without = min(_batch(MOST_RUNS, None, SHORT) for _ in range(3))
    each = (many - one) / (MOST_RUNS - 1)
    return Constants(launcher, worker, composing, writing, one - each, each, max(0.0, with_files - without) / MOST_RUNS)


def wall(constants: Constants, workers: int, jobs: int, env_steps: int, slower_disk: float = 1.0) -> float:
    """The model: seconds of a sweep.

    Args:
        env_steps: of a run; its time is taken to be proportional.
        slower_disk: how much longer the launcher waits for a file than here.
    """
    size = min(MOST_RUNS, math.ceil(jobs / workers))
    rounds = math.ceil(math.ceil(jobs / size) / workers)
    length = env_steps / STEPS
    launcher = constants.launcher_start + jobs * (constants.compose + constants.write * slower_disk)
    # the workers' files come in the shadow of training, unless the one disk that all share cannot keep up
    disk = jobs * constants.files * slower_disk
    training = rounds * (constants.first + size * constants.each) * length
    return launcher + constants.worker_start + max(training, disk)


def efficiency(constants: Constants, workers: int, *what: float) -> float:
    """How much of the workers' time is training, compared with a single worker."""
    return wall(constants, 1, *what) / (workers * wall(constants, workers, *what))  # type: ignore[arg-type]


def _command(arguments: list[str], folder: Path, twice: bool = False) -> float:
    """Wall seconds of a command; with `twice` of its second time, when its job is complete and only checked."""
    begin = time.perf_counter()
    for _ in range(1 + twice):
        begin = time.perf_counter()
        command = [sys.executable, *arguments, *(["total_env_steps=100"] if twice else [])]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - begin


def _composed(folder: Path) -> tuple[float, list[Job]]:
    with _hydra(), seldom_collected():
        loader = GlobalHydra.instance().config_loader()
        given = [*SETTINGS, f"hydra.sweep.dir={folder / 'composed'}"]
        composer = Composer(loader, loader.load_configuration("config", given, RunMode.MULTIRUN))
        composer([*SETTINGS, "seed=0"], 0)
        begin = time.perf_counter()
        jobs = [composer([*SETTINGS, f"seed={seed}"], seed) for seed in range(COMPOSED)]
        return (time.perf_counter() - begin) / COMPOSED, [
            _in(job, folder / "composed" / str(job.number)) for job in jobs
        ]


def _in(job: Job, folder: Path) -> Job:
    return replace(job, folder=folder)


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def _batch(runs: int, folder: Path | None, length: Sequence[str] = (f"total_env_steps={STEPS}",)) -> float:
    configs = [compose(*SETTINGS, f"seed={seed}", *length) for seed in range(runs)]
    begin = time.perf_counter()
    train(configs, [folder / str(run) for run in range(runs)] if folder else None)
    return time.perf_counter() - begin


def draw(constants: Constants, jobs: int, env_steps: int, path: Path) -> None:
    """Efficiency over workers, on this disk and on slower ones."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    workers = sorted({round(10 ** (exponent / 20)) for exponent in range(61)})
    for slower, label in ((1.0, "this machine's disk"), (10.0, "10 times slower"), (100.0, "100 times slower")):
        values = [100 * efficiency(constants, count, jobs, env_steps, slower) for count in workers]
        axes.plot(workers, values, label=label)
    axes.axhline(50, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xscale="log", ylim=(0, 105), xlabel="workers", ylabel="efficiency, %")
    axes.set_title(f"Model: {jobs:,} CartPole runs of {env_steps:,} env steps")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--env-steps", type=int, default=1_500_000, help="of a run")
    parser.add_argument("--picture", type=Path, help="where to draw the efficiency")
    arguments = parser.parse_args()
    constants = measure()
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    for name, value in asdict(constants).items():
        print(f"  {name:15s} {value * 1000:10.2f} ms")
    for slower in (1.0, 10.0, 100.0):
        print(f"{arguments.jobs:,} jobs of {arguments.env_steps:,} env steps, disk {slower:g} times slower than here:")
        what = (arguments.jobs, arguments.env_steps, slower)
        for workers in WORKERS:
            share = 100 * efficiency(constants, workers, *what)
            print(f"  {workers:5d} workers {wall(constants, workers, *what):12,.0f} s, efficiency {share:5.1f} %")
        below = next((n for n in range(1, 100_001) if efficiency(constants, n, *what) < 0.5), None)
        print(f"  below 50 % from {below:,} workers" if below else "  never below 50 % up to 100,000 workers")
    if arguments.picture:
        draw(constants, arguments.jobs, arguments.env_steps, arguments.picture)


if __name__ == "__main__":
    main()
