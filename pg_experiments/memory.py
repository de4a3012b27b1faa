"""How the process handles memory that tensors or configs have left."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
ONE_GIGABYTE = 1 << 30


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks for the next tensor of that size instead of handing them back to the system.

    Every iteration allocates the same sizes again; asking the system for fresh, zeroed pages each time costs an update
    about a sixth of its time. Where the C library has no `mallopt`, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, ONE_GIGABYTE)
    mallopt(M_TRIM_THRESHOLD, ONE_GIGABYTE)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Let Python look for garbage in cycles after 20,000 new objects instead of 700.

    A composed config has a thousand; with the configs of a sweep, looking takes a third of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(20_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
