"""Workers that are tasks on a Ray cluster, one processor and one batch each."""

import logging
import os
import re
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from pg_experiments.errors import ConfigError, UserError, first_line, needs_extra
from pg_experiments.sweeps.backends.elsewhere import RemoteTask, interrupted, train_elsewhere
from pg_experiments.sweeps.backends.interface import Results, WorkerDiedError
from pg_experiments.sweeps.worker import Task

WATCH_SECONDS = 2.0
CONNECT_SECONDS = 10.0


class Ray:
    """Every batch is a task; the cluster decides where it runs. Task folders must lie on a disk that all nodes share.

    Args:
        workers: tasks at a time; None: as many as the cluster has processors for at that moment, so that nodes which
            join in mid-sweep get work.
        settings: `remote` for the options of a task (default: `num_cpus: 1`); everything else for `ray.init`, such as
            `address: auto`.
    """

    def __init__(self, workers: int | None, settings: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError as error:
            raise needs_extra("hydra.launcher.backend", "ray", "ray") from error
        self._ray = ray
        self._workers = workers
        options = dict(settings)
        remote = {"num_cpus": 1} | dict(options.pop("remote", None) or {})
        self._processors = max(float(remote["num_cpus"]), 1e-9)
        self._closed = threading.Event()
        self._own = not ray.is_initialized()
        if self._own:
            _connect(ray, options)
        try:
            # a lost batch is started again by the launcher, which knows what of it is complete
            self._train: Any = ray.remote(**(remote | {"max_retries": 0}))(train_on_node)  # type: ignore[call-overload]
        except (ValueError, TypeError) as error:
            self.close()
            raise ConfigError("hydra.launcher.ray.remote", remote, first_line(error)) from error
        self._running: dict[Future[Results], tuple[Task, Any]] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def workers(self) -> int:
        """Tasks at a time, as the cluster is now."""
        return self._workers or self._fitting(self._ray.cluster_resources().get("CPU", 1))

    @property
    def spread(self) -> int:
        return self.workers

    @property
    def per_machine(self) -> int:
        nodes = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        return self._fitting(max(nodes, default=1))

    def _fitting(self, processors: float) -> int:
        return max(1, int(processors / self._processors))

    def submit(self, task: Task) -> Future[Results]:
        reference = self._train.remote(RemoteTask.of(task))
        outer: Future[Results] = Future()
        outer.set_running_or_notify_cancel()
        self._running[outer] = (task, reference)

        def ended(inner: Future[Results]) -> None:
            if self._running.pop(outer, None) is None:
                return
            _node_file(task).unlink(missing_ok=True)
            error = inner.exception()
            kinds = self._ray.exceptions
            if isinstance(error, kinds.TaskCancelledError):
                outer.set_result(interrupted(task))
            elif isinstance(error, kinds.RayTaskError):  # raised by our own code in the task
                outer.set_exception(error.cause if isinstance(error.cause, Exception) else error)
            elif isinstance(error, kinds.RayError):  # the worker crashed, its node died, its result was lost with it
                outer.set_exception(WorkerDiedError(f"Ray: {type(error).__name__}"))
            elif error:
                outer.set_exception(error)
            else:
                outer.set_result(inner.result())

        reference.future().add_done_callback(ended)
        return outer

    def _watch(self) -> None:
        """Give up tasks on dead nodes: of a machine that answers nothing, Ray knows it long before the task fails."""
        while not self._closed.wait(WATCH_SECONDS):
            try:
                dead = {node["NodeID"] for node in self._ray.nodes() if not node["Alive"]}
            except Exception:  # the cluster itself does not answer, and the tasks will say so
                continue
            for outer, (task, _) in list(self._running.items()):
                with suppress(OSError):
                    if _node_file(task).read_text() in dead and outer in self._running:
                        self._running.pop(outer)
                        _node_file(task).unlink(missing_ok=True)
                        outer.set_exception(WorkerDiedError("Ray: its node is dead"))

    def stop(self) -> None:
        for _, reference in list(self._running.values()):
            self._ray.cancel(reference)  # a KeyboardInterrupt in the task, which then saves what it has

    def close(self) -> None:
        self._closed.set()
        if self._own:
            self._ray.shutdown()


def train_on_node(remote: RemoteTask) -> Results:
    """`train_elsewhere` in a task, which first says on which node it is."""
    import ray

    with suppress(OSError):  # the folder is not shared, which `train_elsewhere` says
        _node_file(remote.task).write_text(ray.get_runtime_context().get_node_id())
    return train_elsewhere(remote)


def _node_file(task: Task) -> Path:
    return task.report.with_suffix(".node")


def _connect(ray: Any, options: Mapping[str, Any]) -> None:
    """`ray.init`, which would otherwise fill the terminal: the launcher itself says when a worker is lost."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "PYTHONPATH" in os.environ:  # nodes were started elsewhere, and may not find what this process finds
        quiet["runtime_env"] = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
    address = options.get("address")
    if address is None or address == "local":
        quiet["include_dashboard"] = False
    with suppress(ImportError, AttributeError):
        from ray._private import worker

        # ray.init has no switch for the page that it prints when a node is lost
        worker.print_to_stdstream = lambda *_, **__: None
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if found := re.fullmatch(r"([\w.-]+):(\d+)", str(address)):  # ray.init would try for minutes
            socket.create_connection((found[1], int(found[2])), CONNECT_SECONDS).close()
        ray.init(**(quiet | dict(options)))
    except (ConnectionError, ValueError, TypeError, RuntimeError, OSError) as error:
        where = ConfigError("hydra.launcher.ray.address", address, _advice(error)) if address else None
        raise where or UserError(f"hydra.launcher.ray={dict(options)}: {first_line(error)}") from error


def _advice(error: BaseException) -> str:
    return f"no Ray cluster answers there ({first_line(error)}); start one with: ray start --head"
