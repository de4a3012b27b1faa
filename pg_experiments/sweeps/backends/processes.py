"""Workers that are processes of this machine, each with one thread and one batch at a time."""

import atexit
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from joblib import cpu_count

from pg_experiments.interruption import SIGNALS
from pg_experiments.sweeps.backends.interface import Results, WorkerDiedError
from pg_experiments.sweeps.worker import Task, prepare_process, train_in_process

PRELOADED = ["pg_experiments.training", "pg_experiments.sweeps.worker", "torch.utils.tensorboard.summary"]


def physical_cores() -> int:
    """Cores that this process may use, two threads of one core counted once."""
    return int(cpu_count(only_physical_cores=True))


class Processes:
    """One pool of one process per worker, so that a worker that dies takes no other along.

    The processes are forked from a server that has imported torch and done nothing else: they start in milliseconds
    and share its memory.
    """

    def __init__(self, workers: int) -> None:
        self.workers = self.spread = self.per_machine = workers
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        _start_server()
        self._free = [self._pool() for _ in range(workers)]
        self._busy: list[ProcessPoolExecutor] = []

    def _pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=self._context, initializer=prepare_process)

    def submit(self, task: Task) -> Future[Results]:
        pool = self._free.pop()
        self._busy.append(pool)  # before it has work: Ctrl-C in between would leave a worker that nobody stops
        try:
            inner = pool.submit(train_in_process, task)
        except BrokenProcessPool:  # its process died while it was idle
            self._busy.remove(pool)
            pool = self._pool()
            self._busy.append(pool)
            inner = pool.submit(train_in_process, task)
        outer: Future[Results] = Future()
        outer.set_running_or_notify_cancel()

        def ended(inner: Future[Results]) -> None:
            self._busy.remove(pool)
            error = inner.exception()
            if isinstance(error, BrokenProcessPool):
                self._free.append(self._pool())
                pool.shutdown(wait=False)
                outer.set_exception(WorkerDiedError("its process died (killed, or out of memory?)"))
                return
            self._free.append(pool)
            if error:
                outer.set_exception(error)
            else:
                outer.set_result(inner.result())

        inner.add_done_callback(ended)
        return outer

    def stop(self) -> None:
        self._signal(self._busy, signal.SIGINT)

    def close(self) -> None:
        # the idle ones too: asked by their queue to end, they may miss it when this process is itself one of
        # multiprocessing's, whose end closes the queues first; then both would wait for ever
        self._signal([*self._free, *self._busy], signal.SIGKILL)
        for pool in [*self._free, *self._busy]:
            pool.shutdown(wait=False, cancel_futures=True)

    def _signal(self, pools: Sequence[ProcessPoolExecutor], number: int) -> None:
        for pool in list(pools):
            for pid in list(pool._processes or {}):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


def _start_server() -> None:
    """Start the server that workers are forked from, with SIGINT and SIGTERM blocked.

    The workers inherit that: a signal before they are ready to hear it waits, and neither kills them nor gets lost.
    """
    atexit.unregister(_end_server)
    atexit.register(_end_server)
    multiprocessing.resource_tracker.ensure_running()  # it would end the blocking
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_server() -> None:
    """End the server together with this process; by itself it would first finish its imports, for seconds."""
    pid = getattr(multiprocessing.forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
