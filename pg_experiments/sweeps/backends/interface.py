"""What a backend offers the launcher."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from pg_experiments.errors import ConfigError, nearest
from pg_experiments.sweeps.worker import Task

Results = list[dict[str, Any]]

NAMES = ("processes", "ray", "submitit")


class WorkerDiedError(Exception):
    """The worker of a batch is gone: killed, out of memory, its machine lost. The message says what is known."""


@runtime_checkable
class Backend(Protocol):
    """Trains batches of runs somewhere.

    Attributes:
        workers: how many batches it trains at a time.
    """

    workers: int

    def submit(self, task: Task) -> Future[Results]:
        """Train a batch; its future raises `WorkerDiedError` when the worker is lost. At most `workers` at a time."""
        ...

    def stop(self) -> None:
        """Ask all workers to save what they have and end."""
        ...

    def close(self) -> None:
        """Let go of everything, at once."""
        ...


def make_backend(settings: Mapping[str, Any], jobs: int) -> Backend:
    """The backend that `hydra.launcher` names.

    Args:
        settings: of the launcher.
        jobs: how many there are at most; more workers would have nothing to do.

    Raises:
        ConfigError: for an unknown name, a wrong number or an extra that is not installed.
    """
    name, workers = settings["backend"], settings["workers"]
    check(settings)
    if name == "processes":
        from pg_experiments.sweeps.backends.processes import Processes

        return Processes(worker_count(settings, jobs))
    if name == "ray":
        from pg_experiments.sweeps.backends.ray import Ray

        return Ray(workers, settings["ray"])
    if name == "submitit":
        from pg_experiments.sweeps.backends.submitit import Submitit

        return Submitit(workers, settings["submitit"])
    raise AssertionError(name)


def check(settings: Mapping[str, Any]) -> None:
    """Raise a `ConfigError` for the first setting of the launcher that cannot be used."""
    name = settings["backend"]
    if name not in NAMES:
        raise ConfigError(
            "hydra.launcher.backend", name, f"must be one of {', '.join(NAMES)}.{nearest(str(name), NAMES)}"
        )
    for key, least in (("workers", 1), ("max_runs_per_batch", 1), ("retries", 0)):
        if settings[key] is not None and settings[key] < least:
            raise ConfigError(f"hydra.launcher.{key}", settings[key], f"must be at least {least}")


def worker_count(settings: Mapping[str, Any], jobs: int) -> int:
    """Workers on this machine for so many jobs; of a cluster, what is configured or else one per job."""
    if settings["backend"] == "processes":
        from pg_experiments.sweeps.backends.processes import physical_cores

        return min(settings["workers"] or physical_cores(), jobs)
    return min(settings["workers"] or jobs, jobs)
