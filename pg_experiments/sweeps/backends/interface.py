"""What a backend offers the launcher."""

from collections.abc import Mapping
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pg_experiments.errors import ConfigError, nearest, needs_extra
from pg_experiments.sweeps.sizing import MOST_RUNS
from pg_experiments.sweeps.worker import Task

Results = list[dict[str, Any]]

NAMES = ("processes", "ray", "submitit")
EXTRAS = {"ray": "ray", "submitit": "slurm"}  # what a backend needs besides the package itself


class WorkerDiedError(Exception):
    """The worker of a batch is gone: killed, out of memory, its machine lost. The message says what is known."""


@runtime_checkable
class Backend(Protocol):
    """Trains batches of runs somewhere.

    Attributes:
        workers: how many batches it trains at a time; it may change.
        spread: over how many workers jobs are spread, where there are enough of them.
        per_machine: how many workers share the memory of one machine; other machines are taken to be like this one.
    """

    @property
    def workers(self) -> int: ...

    @property
    def spread(self) -> int: ...

    @property
    def per_machine(self) -> int: ...

    def submit(self, task: Task) -> Future[Results]:
        """Train a batch; its future raises `WorkerDiedError` when the worker is lost. At most `workers` at a time."""
        ...

    def stop(self) -> None:
        """Ask all workers to save what they have and end."""
        ...

    def close(self) -> None:
        """Let go of everything, at once."""
        ...


def make_backend(settings: Mapping[str, Any], jobs: int, sweep_dir: Path) -> Backend:
    """The backend that `hydra.launcher` names.

    Args:
        settings: of the launcher.
        jobs: how many there are at most; more workers would have nothing to do.
        sweep_dir: where the jobs' folders are.

    Raises:
        ConfigError: for an unknown name, a wrong number or an extra that is not installed.
    """
    name, workers = settings["backend"], settings["workers"]
    check(settings)
    if name == "processes":
        from pg_experiments.sweeps.backends.processes import Processes

        return Processes(expected_workers(settings, jobs)[0])
    if name == "ray":
        from pg_experiments.sweeps.backends.ray import Ray

        return Ray(workers, settings["ray"])
    if name == "submitit":
        from pg_experiments.sweeps.backends.submitit import Submitit

        return Submitit(workers, jobs, sweep_dir, settings["submitit"])
    raise AssertionError(name)


def check(settings: Mapping[str, Any]) -> None:
    """Raise a `ConfigError` for the first setting of the launcher that cannot be used."""
    name = settings["backend"]
    if name not in NAMES:
        raise ConfigError(
            "hydra.launcher.backend", name, f"must be one of {', '.join(NAMES)}.{nearest(str(name), NAMES)}"
        )
    if name in EXTRAS and find_spec(name) is None:
        raise needs_extra("hydra.launcher.backend", name, EXTRAS[name])
    for key, least in (("workers", 1), ("max_runs_per_batch", 1), ("retries", 0)):
        if settings[key] is not None and settings[key] < least:
            raise ConfigError(f"hydra.launcher.{key}", settings[key], f"must be at least {least}")


def expected_workers(settings: Mapping[str, Any], jobs: int) -> tuple[int, int]:
    """`spread` and `per_machine` of the backend, without starting it; of a cluster, a guess.

    Returns:
        For `processes` what is true. Elsewhere `workers` as configured, or what a free cluster would give: on Ray a
        worker per job, on Slurm batches as large as is useful.
    """
    from pg_experiments.sweeps.backends.processes import physical_cores

    if settings["backend"] == "processes":
        workers = min(settings["workers"] or physical_cores(), jobs)
        return workers, workers
    free = jobs if settings["backend"] == "ray" else -(-jobs // MOST_RUNS)
    return min(settings["workers"] or free, jobs), physical_cores()
