"""Freed memory stays with the process, unless the user says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROBE = """
import resource
from zoo._allocator import keep_freed_memory
import numpy as np
print(keep_freed_memory())
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    kept = [np.ones(2**18) for _ in range(8)]
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[bool, int]:
    """Return whether the allocator was told, and the page faults of 20 times eight arrays of 2 MB."""
    kept = {name: value for name, value in os.environ.items() if name not in ("ZOO_MALLOC", "LD_PRELOAD")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    told, count = done.stdout.split()
    return told == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_freed_memory_is_used_again() -> None:
    told, count = faults()
    assert told and count < 8_000, "eight times 512 pages once"
    told, count = faults(ZOO_MALLOC="default")
    assert not told and count > 20_000, "the same each time"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_an_allocator_that_the_user_configures_is_left_alone() -> None:
    assert faults(MALLOC_MMAP_THRESHOLD_="4096")[0] is False
