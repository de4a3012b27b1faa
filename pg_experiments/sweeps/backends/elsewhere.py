"""A worker on another machine: it works where the launcher does, keeps what is complete, and ends when it is asked to.

Launcher and worker share a disk and nothing else, so this is done with files: Slurm's and Ray's own ways to start a job
again (after a preemption, or when a machine came back) lead here as well.
"""

import _thread
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pg_experiments.config import config_sha256
from pg_experiments.sweeps.worker import Task, failed, train_batch

REPORT_SECONDS = 2.0  # between two reports, and two looks for the stop file: a thousand workers share one disk
SHARED_SECONDS = 30.0  # for what the launcher has written to be seen on another machine
STOP = "stop"  # the file beside the reports


@dataclass(frozen=True, eq=False)
class RemoteTask:
    """A task and where it was given.

    Attributes:
        task: the batch.
        working_dir: of the launcher: relative paths in a config mean the same in the worker, where the folder exists.
        python_path: of the launcher, so that a user's own modules are found.
    """

    task: Task
    working_dir: Path
    python_path: list[str]

    @classmethod
    def of(cls, task: Task) -> "RemoteTask":
        """The task as this process would do it."""
        here = Path.cwd()
        return cls(task, here, [str(here / path) for path in sys.path])

    @property
    def stop_file(self) -> Path:
        """Its presence asks the worker to save what it has and to end."""
        return self.task.report.parent / STOP


def train_elsewhere(remote: RemoteTask) -> list[dict[str, Any]]:
    """`train_batch` on any machine that shares the disk, and any number of times for the same task.

    Returns:
        Per run the content of its `result.json`; of a run that was complete already, what is there.
    """
    from pg_experiments.results import read_result
    from pg_experiments.sweeps.folder import make_ready

    task = remote.task
    if remote.working_dir.is_dir():
        os.chdir(remote.working_dir)
    sys.path += [path for path in remote.python_path if path not in sys.path]
    if missing := _unseen(task):
        return failed(task, f"{missing}: is not seen on {socket.gethostname()}; all machines must share this folder")
    complete: dict[int, dict[str, Any]] = {}
    for run, (config, folder) in enumerate(zip(task.configs, task.folders, strict=True)):
        result = read_result(folder)
        if result and result.get("status") == "completed" and result.get("config_sha256") == config_sha256(config):
            complete[run] = result
        else:
            make_ready(folder, config)
    left = [run for run in range(len(task.configs)) if run not in complete]
    if left:
        part = replace(task, configs=[task.configs[run] for run in left], folders=[task.folders[run] for run in left])
        complete |= dict(zip(left, _train(replace(part, seconds=REPORT_SECONDS), remote.stop_file), strict=True))
    return [complete[run] for run in range(len(task.configs))]


def interrupted(task: Task) -> list[dict[str, Any]]:
    """The results of runs that were stopped before they had one."""
    return [result | {"status": "interrupted", "error": None} for result in failed(task, "")]


def _train(task: Task, stop_file: Path) -> list[dict[str, Any]]:
    if stop_file.exists():
        return interrupted(task)
    ended = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    if main:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=_watch, args=(stop_file, os.getppid(), ended), daemon=True).start()
    try:
        return train_batch(task)
    except KeyboardInterrupt:  # before the first iteration
        return interrupted(task)
    finally:
        ended.set()


def _watch(stop_file: Path, parent: int, ended: threading.Event) -> None:
    """Ctrl-C for the main thread when the stop file is there; the end of this process when its parent is gone."""
    asked = False
    while not ended.wait(REPORT_SECONDS):
        if os.getppid() != parent:
            os._exit(1)
        if not asked and stop_file.exists():
            asked = True
            _thread.interrupt_main()


def _unseen(task: Task) -> Path | None:
    """A folder of the task that the launcher has made and that cannot be seen here."""
    deadline = time.monotonic() + SHARED_SECONDS
    while missing := [folder for folder in task.folders if not folder.is_dir()]:
        if time.monotonic() > deadline:
            return missing[0]
        time.sleep(1.0)
    return None
