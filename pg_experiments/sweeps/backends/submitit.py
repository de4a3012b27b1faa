"""Workers that are jobs of Slurm, through submitit; without Slurm, its local executor."""

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from pg_experiments.errors import UserError, first_line
from pg_experiments.sweeps.backends.interface import Results, WorkerDiedError
from pg_experiments.sweeps.worker import Task, train_batch

POLL_SECONDS = 0.5
MANY = 1000  # jobs at a time where the queue itself says how many run


class Submitit:
    """Every batch is a job of one task with one processor. Folders must lie on a disk that all machines share.

    Args:
        workers: jobs at a time; None: on Slurm all of them are queued at once, locally one per physical core.
        settings: `folder` for scripts and logs (default: `outputs/submitit`), `cluster` (`slurm`, `local`, or null:
            Slurm where it is found), and parameters of `submitit.AutoExecutor.update_parameters`, such as
            `slurm_partition` or `timeout_min`.
    """

    def __init__(self, workers: int | None, settings: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                "hydra.launcher.backend=submitit: needs submitit; install it with pip install 'pg_experiments[slurm]'"
            ) from error
        from pg_experiments.sweeps.backends.processes import physical_cores

        options: dict[str, Any] = {"cpus_per_task": 1, "tasks_per_node": 1, "name": "pg_experiments"} | dict(settings)
        folder, cluster = options.pop("folder", "outputs/submitit"), options.pop("cluster", None)
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**options)
        except (ValueError, TypeError, NameError, RuntimeError) as error:
            raise UserError(f"hydra.launcher.submitit={options}: {first_line(error)}") from error
        self.workers = workers or (MANY if self._executor.cluster == "slurm" else physical_cores())
        self._running: dict[Future[Results], Any] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, task: Task) -> Future[Results]:
        future: Future[Results] = Future()
        future.set_running_or_notify_cancel()
        self._running[future] = self._executor.submit(train_batch, task)
        return future

    def _watch(self) -> None:
        """Settle the futures of jobs that have ended."""
        while not self._closed.wait(POLL_SECONDS):
            for future, job in list(self._running.items()):
                if job.done():
                    del self._running[future]
                    error = job.exception()
                    if error is None:
                        future.set_result(job.result())
                    else:
                        future.set_exception(WorkerDiedError(f"job {job.job_id}: {_reason(error)}"))

    def stop(self) -> None:
        for job in list(self._running.values()):
            job.cancel(check=False)

    def close(self) -> None:
        with suppress(RuntimeError):
            self.stop()
        self._closed.set()


def _reason(error: BaseException) -> str:
    """The last line that says something of submitit's long report."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
