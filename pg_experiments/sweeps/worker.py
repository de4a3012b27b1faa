"""What a worker does: train one batch of runs, and say where it is in a file that the launcher reads."""

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pg_experiments.config import Config
from pg_experiments.errors import UserError
from pg_experiments.interruption import SIGNALS, forget, hear
from pg_experiments.progress import Status

REPORT_SECONDS = 0.5  # between two reports of a batch


@dataclass(frozen=True, eq=False)
class Task:
    """A batch of runs for a worker: everything it needs to know.

    Attributes:
        configs: of equal structure.
        folders: one per run, on a disk that launcher and worker share.
        report: file for the progress.
        seconds: between two reports.
    """

    configs: list[Config]
    folders: list[Path]
    report: Path
    seconds: float = REPORT_SECONDS


class ReportingDisplay:
    """Writes every `Status` that is due into a file, for the launcher to show."""

    def __init__(self, path: Path, seconds: float = REPORT_SECONDS) -> None:
        self._path = path
        self._seconds = seconds
        self._next = 0.0

    def show(self, status: Status) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._seconds
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(asdict(status)))
            temporary.replace(self._path)
        except OSError:
            pass  # a full disk stops the runs' own files, which say so

    def close(self) -> None:
        pass


def train_batch(task: Task) -> list[dict[str, Any]]:
    """Train the runs of a task.

    Returns:
        Per run the content of its `result.json`. Ctrl-C ends it early: status `interrupted`, or, when no run had begun,
        an `Interrupted`.
    """
    from pg_experiments.training import Interrupted, train

    try:
        results = train(task.configs, task.folders, ReportingDisplay(task.report, task.seconds))
    except Interrupted as interrupted:
        if not interrupted.results:
            raise
        results = interrupted.results
    except UserError as error:  # such as a folder that cannot be written
        return failed(task, str(error))
    return [json.loads(result.to_json()) for result in results]


def failed(task: Task, reason: str) -> list[dict[str, Any]]:
    """The results of runs that never had one of their own."""
    return [{"status": "failed", "error": reason, "seed": config.seed, "env_steps": 0} for config in task.configs]


class _Interruption:
    """What a worker process knows of Ctrl-C and SIGTERM: whether they came, and whether there is training to end."""

    asked = False
    training = False

    @classmethod
    def hear(cls, number: int, frame: Any) -> None:
        for each in SIGNALS:  # once is enough: another one would disturb the saving
            signal.signal(each, signal.SIG_IGN)
        cls.asked = True
        if cls.training:
            hear(number, frame)

    @classmethod
    def listen(cls) -> None:
        cls.asked = False
        forget()
        for each in SIGNALS:
            signal.signal(each, cls.hear)


def prepare_process() -> None:
    """Make a process of this machine a worker: deaf to the terminal's Ctrl-C, gone when the launcher is gone.

    It was started with both signals blocked (see `backends/processes.py`), so one that came in the meantime is heard
    now.
    """
    os.setpgid(0, 0)  # the launcher passes Ctrl-C on, once
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _Interruption.listen()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def train_in_process(task: Task) -> list[dict[str, Any]]:
    """`train_batch` in a worker process, where SIGINT and SIGTERM are heard while it trains."""
    try:
        _Interruption.training = True
        if _Interruption.asked:
            raise KeyboardInterrupt
        return train_batch(task)
    except KeyboardInterrupt:  # before the first iteration
        return [result | {"status": "interrupted", "error": None} for result in failed(task, "")]
    finally:
        _Interruption.training = False
        if _Interruption.asked:
            _Interruption.listen()
