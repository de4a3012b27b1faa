"""Workers that are jobs of Slurm, through submitit; without Slurm, its local executor."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from pg_experiments.errors import UserError, first_line, needs_extra
from pg_experiments.sweeps.backends.elsewhere import STOP, RemoteTask, interrupted, train_elsewhere
from pg_experiments.sweeps.backends.interface import Results, WorkerDiedError
from pg_experiments.sweeps.sizing import MOST_RUNS
from pg_experiments.sweeps.worker import Task

POLL_SECONDS = 0.5
MANY = 1000  # jobs at a time where the queue itself says how many run
DEFAULTS = {
    "cpus_per_task": 1,
    "tasks_per_node": 1,
    "name": "pg_experiments",
    "timeout_min": 24 * 60,  # submitit's own five minutes would end a batch, locally as well
}


class Submitit:
    """Every batch is a job of one task with one processor. Folders must lie on a disk that all machines share.

    Args:
        workers: jobs at a time; None: on Slurm all of them are queued at once, in batches as large as is useful, and
            locally one per physical core.
        jobs: of the sweep.
        sweep_dir: of the sweep.
        settings: `folder` for scripts and logs (default: `.submitit` in the sweep's folder), `cluster` (`slurm`,
            `local`, or null: Slurm), and parameters of `submitit.AutoExecutor.update_parameters`,
            such as `slurm_partition` or `timeout_min`.
    """

    def __init__(self, workers: int | None, jobs: int, sweep_dir: Path, settings: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise needs_extra("hydra.launcher.backend", "submitit", "slurm") from error
        from pg_experiments.sweeps.backends.processes import physical_cores

        options: dict[str, Any] = DEFAULTS | dict(settings)
        folder, cluster = options.pop("folder", sweep_dir / ".submitit"), options.pop("cluster", None)
        given = {key: value for key, value in settings.items() if key != "folder"}
        try:
            self._executor = submitit.AutoExecutor(folder=Path(folder).resolve(), cluster=cluster)
            self._executor.update_parameters(**options)
        except (ValueError, TypeError, NameError, RuntimeError, AssertionError) as error:
            raise UserError(f"hydra.launcher.submitit={given}: {first_line(error)}") from error
        self._local = self._executor.cluster != "slurm"
        if self._local and cluster is None:
            here = "hydra.launcher.submitit.cluster=local runs the jobs on this machine"
            raise UserError(f"hydra.launcher.backend=submitit: there is no Slurm here (no sbatch in PATH); {here}")
        self._stop_file = sweep_dir.resolve() / ".progress" / STOP
        self._stop_file.unlink(missing_ok=True)  # of an interruption before
        self.per_machine = physical_cores()
        self.workers = workers or (self.per_machine if self._local else MANY)
        self.spread = self.workers if self._local or workers else -(-jobs // MOST_RUNS)
        self._running: dict[Future[Results], tuple[Task, Any]] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, task: Task) -> Future[Results]:
        future: Future[Results] = Future()
        future.set_running_or_notify_cancel()
        # Ctrl-C on the terminal is for the launcher only, which passes it on; a local job inherits what is blocked here
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._running[future] = (task, self._executor.submit(train_elsewhere, RemoteTask.of(task)))
        except Exception as error:  # of sbatch, which submitit reports in several ways
            if not isinstance(error, subprocess.SubprocessError) and type(error).__module__.split(".")[0] != "submitit":
                raise
            raise UserError(f"hydra.launcher.submitit: the job was refused: {_reason(error)}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return future

    def _watch(self) -> None:
        """Settle the futures of jobs that have ended."""
        while not self._closed.wait(POLL_SECONDS):
            for future, (_, job) in list(self._running.items()):
                if job.done() and self._taken(future):
                    error = job.exception()
                    if error is None:
                        future.set_result(job.result())
                    else:
                        future.set_exception(WorkerDiedError(f"job {job.job_id}: {_reason(error)}"))

    def _taken(self, future: Future[Results]) -> bool:
        """Whether this thread, and not the other, is to settle it."""
        return self._running.pop(future, (None, None))[0] is not None

    def stop(self) -> None:
        """Those that train look for the file; those that still wait in the queue are taken out of it."""
        with suppress(OSError):
            self._stop_file.touch()
        for future, (task, job) in list(self._running.items()):
            if not task.report.exists() and self._taken(future):
                self._cancel(job)
                future.set_result(interrupted(task))

    def close(self) -> None:
        self._closed.set()
        for _, job in self._running.values():
            self._cancel(job)

    def _cancel(self, job: Any) -> None:
        with suppress(OSError, RuntimeError, subprocess.SubprocessError):
            if self._local:
                os.kill(int(job.job_id), signal.SIGKILL)  # the job's parent; the job sees that it is gone
            else:
                job.cancel(check=False)


def _reason(error: BaseException) -> str:
    """The last line that says something of submitit's long report."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
