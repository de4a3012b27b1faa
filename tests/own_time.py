"""How long a process takes by itself: a busy machine also lets it wait for a core, and that is not its own time."""

import os
import subprocess
import time
from pathlib import Path


def own_seconds_to_end(process: subprocess.Popen, limit: float = 120.0) -> float:
    """Wait for a process to end; the seconds from now on in which it ran or waited for anything but a core."""
    begin, waited_before = time.monotonic(), _waited_for_a_core(process.pid)
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < begin + limit, "the process did not end"
        time.sleep(0.01)
    seconds = time.monotonic() - begin - (_waited_for_a_core(process.pid) - waited_before)
    process.wait()
    return seconds


def _waited_for_a_core(pid: int) -> float:
    """Seconds until now of a process's main thread; Linux counts them, and elsewhere all time is its own."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
