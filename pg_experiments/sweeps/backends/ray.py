"""Workers that are tasks on a Ray cluster, one processor and one batch each."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from pg_experiments.errors import UserError, first_line
from pg_experiments.sweeps.backends.interface import Results, WorkerDiedError
from pg_experiments.sweeps.worker import Task, train_batch


class Ray:
    """Every batch is a task; the cluster decides where it runs. Task folders must lie on a disk that all nodes share.

    Args:
        workers: tasks at a time; None: as many as the cluster has processors when the sweep begins.
        settings: `remote` for the options of a task (default: `num_cpus: 1`); everything else for `ray.init`, such as
            `address: auto`.
    """

    def __init__(self, workers: int | None, settings: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "hydra.launcher.backend=ray: needs Ray; install it with pip install 'pg_experiments[ray]'"
            ) from error
        self._ray = ray
        options = dict(settings)
        remote = {"num_cpus": 1} | dict(options.pop("remote", None) or {})
        self._own = not ray.is_initialized()
        if self._own:
            try:
                ray.init(**({"log_to_driver": False} | options))
            except (ConnectionError, ValueError, TypeError) as error:
                raise UserError(f"hydra.launcher.ray={options}: {first_line(error)}") from error
        # a lost batch is started again by the launcher, which knows what of it is complete
        self._train: Any = ray.remote(**(remote | {"max_retries": 0}))(train_batch)  # type: ignore[call-overload]
        self._running: dict[Future[Results], Any] = {}
        processors = ray.cluster_resources().get("CPU", 1) / max(remote["num_cpus"], 1e-9)
        self.workers = workers or max(1, int(processors))

    def submit(self, task: Task) -> Future[Results]:
        reference = self._train.remote(task)
        outer: Future[Results] = Future()
        outer.set_running_or_notify_cancel()
        self._running[outer] = reference

        def ended(inner: Future[Results]) -> None:
            self._running.pop(outer, None)
            error = inner.exception()
            kinds = self._ray.exceptions
            lost = (kinds.WorkerCrashedError, kinds.NodeDiedError, kinds.OutOfMemoryError, kinds.LocalRayletDiedError)
            if isinstance(error, lost):
                outer.set_exception(WorkerDiedError(f"Ray: {type(error).__name__}"))
            elif isinstance(error, self._ray.exceptions.TaskCancelledError):
                outer.set_result([{"status": "interrupted", "error": None, "env_steps": 0} for _ in task.configs])
            elif error:
                outer.set_exception(error)
            else:
                outer.set_result(inner.result())

        reference.future().add_done_callback(ended)
        return outer

    def stop(self) -> None:
        for reference in list(self._running.values()):
            self._ray.cancel(reference)  # a KeyboardInterrupt in the task, which then saves what it has

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()
