"""The end of a process in which a step never returns to Python: nothing else ends C code that hangs.

C code that has let go of Python's lock leaves the other threads alive: in the training command, one of them writes the
run's result as failed, says so, and ends the process. C code that holds the lock stops every thread of Python; then
faulthandler, whose watch is not written in Python, prints where it was and ends the process with the same exit code,
and the run's folder stays as its last checkpoint left it. A worker of a sweep ends that way in any case, because its
launcher finds out which run it was; and a program of the user's, which called `train`, is not ended.
"""

import faulthandler
import math
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

EXIT_FAILED = 1
POLL_SECONDS = 0.2
ARMED_SECONDS = 1.0  # faulthandler is set anew after so long, and not for every step: it takes a thread each time
MORE_SECONDS = 2.0  # that faulthandler waits longer
SAVING_SECONDS = 60.0  # that the folder may take

Fail = Callable[[str, str], list[Any]]  # from the reason, and where the main thread is, to the results of the runs
Show = Callable[[Any], None]  # takes one of them


class _Process:
    """Of this process: how its training fails its runs, and, where it is a training command, shows their results."""

    fail: Fail | None = None
    show: Show | None = None


@contextmanager
def ended_when_hanging(show: Show) -> Iterator[None]:
    """In here the process is a training command: it may be ended when a run of it hangs.

    Args:
        show: called with the `RunResult` of every run that was failed before the end.
    """
    _Process.show = show
    try:
        yield
    finally:
        _Process.show = None


@contextmanager
def failed_first(fail: Fail) -> Iterator[None]:
    """In here runs train: before the process is ended, `fail` writes what they are."""
    _Process.fail = fail
    try:
        yield
    finally:
        _Process.fail = None


class Watch:
    """Ends the process when it is not stopped in time; where that must not be, does nothing.

    A process has one, `WATCH`, whichever environment steps: faulthandler's is one too, and the thread of a second watch
    would take back what the first has set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadline = math.inf
        self._armed = math.inf  # the moment at which faulthandler ends the process
        self._reason = ""
        self._thread: threading.Thread | None = None

    def start(self, seconds: float, reason: str) -> None:
        """So many seconds from now on."""
        if not _is_worker() and _Process.show is None:
            return
        now = time.monotonic()
        with self._lock:
            self._deadline, self._reason = now + seconds, f"{reason} and never returned to Python"
            later = self._armed - self._deadline
            if not MORE_SECONDS <= later <= MORE_SECONDS + ARMED_SECONDS:
                self._armed = self._deadline + MORE_SECONDS + ARMED_SECONDS
                faulthandler.dump_traceback_later(self._armed - now, exit=True)
            if self._thread is None:
                self._thread = threading.Thread(target=self._wait, name="watch of the environment", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """What was watched has returned; the thread finds out soon, takes faulthandler back, and ends."""
        self._deadline = math.inf

    def _wait(self) -> None:
        while _is_worker() or time.monotonic() < self._deadline:
            time.sleep(POLL_SECONDS)
            with self._lock:
                if self._deadline == math.inf:
                    faulthandler.cancel_dump_traceback_later()
                    self._armed, self._thread = math.inf, None
                    return
        self._end()

    def _end(self) -> None:
        faulthandler.dump_traceback_later(SAVING_SECONDS, exit=True)
        main = sys._current_frames().get(threading.main_thread().ident or 0)
        where = "".join(traceback.format_stack(main))
        print(f"error: {self._reason}; it was in\n{where}", file=sys.stderr, flush=True)
        with suppress(Exception):
            for result in _Process.fail(self._reason, where) if _Process.fail else []:
                if _Process.show:
                    _Process.show(result)
            sys.stdout.flush()
        os._exit(EXIT_FAILED)


def _is_worker() -> bool:
    return multiprocessing.parent_process() is not None


WATCH = Watch()
