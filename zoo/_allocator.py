"""Keep freed memory in the process, so that a step reuses it instead of asking the kernel for every page anew."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
_LARGEST_HEAP_BLOCK = 32 * 2**20
"""The most that glibc takes from its heap; larger tensors are mapped one by one."""
_KEPT = 2**30
"""Free memory at the end of the heap that stays with the process."""

SWITCH = "ZOO_MALLOC"
"""Environment variable; `default` leaves the allocator as it is."""


@cache
def keep_freed_memory() -> bool:
    """Raise glibc's mmap and trim thresholds in this process, and return whether that was done.

    By default glibc maps each block of more than 128 KB and returns it when it is freed: a network's pass then makes
    thousands of page faults, each of them zeroing a page in the kernel (measured: 10 to 25 % of the time of a pass). The
    price is that up to 1 GB that was needed once stays with the process. Other C libraries are left alone, and so is an
    allocator that the user configures (MALLOC_*_ variables, or ZOO_MALLOC=default).
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_") and name.endswith("_")]
    if os.environ.get(SWITCH, "").lower() == "default" or chosen or os.environ.get("LD_PRELOAD"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    settings = ((_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK), (_M_TRIM_THRESHOLD, _KEPT), (_M_TOP_PAD, 64 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in settings)
