"""How the process handles memory that tensors have left."""

import ctypes

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
