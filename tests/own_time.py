"""How long a process takes by itself: a busy machine also lets it wait for a core, and that is not its own time."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def own_seconds_to_end(process: subprocess.Popen, limit: float = 120.0, helpers: Sequence[int] = ()) -> float:
    """Wait for a process to end; the seconds from now on in which it ran or waited for anything but a core.

    Args:
        process: waited for.
        limit: of real seconds.
        helpers: processes that it waits for, all at once; what the unluckiest of them waits for a core is no time of
            its own either.
    """
    begin = time.monotonic()
    before = {pid: _waited_for_a_core(pid) for pid in (process.pid, *helpers)}
    waited = dict.fromkeys(before, 0.0)
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < begin + limit, "the process did not end"
        for pid in helpers:  # they may be gone before it
            waited[pid] = max(waited[pid], _waited_for_a_core(pid) - before[pid])
        time.sleep(0.01)
    waited[process.pid] = _waited_for_a_core(process.pid) - before[process.pid]
    seconds = time.monotonic() - begin - waited.pop(process.pid) - max(waited.values(), default=0.0)
    process.wait()
    return seconds


def _waited_for_a_core(pid: int) -> float:
    """Seconds until now of a process's main thread; Linux counts them, and elsewhere all time is its own."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
