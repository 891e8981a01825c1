"""How the C library keeps memory between one tensor and the next."""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What <malloc.h> calls M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""
KEPT_BYTES = 1 << 30
"""Freed memory at the end of the heap that is kept; glibc keeps 64 MiB at most by itself."""
HEAP_BYTES = 1 << 28
"""Below this size a tensor lies on the heap; glibc maps those above 32 MiB by themselves."""
MALLOC_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")
"""How names in the environment begin that say how malloc is to work."""
OLD_HEAP_BYTES = 1 << 25
"""The most that older releases of glibc take."""


def keep_freed_memory() -> None:
    """Lets this process keep the memory of freed tensors for the next ones.

    A training step frees what it made, and glibc gives that back to the system, which then has to
    find and clear the same pages for the next step (experiments/bench_allocator.py). Does nothing
    where the environment says how malloc is to work, and where the C library is another.
    """
    is_said = any(name.startswith(MALLOC_SETTINGS) for name in os.environ)
    if is_said or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # Either call stops glibc from raising its thresholds by itself, so it is both or none.
    if mallopt(MMAP_THRESHOLD, HEAP_BYTES) or mallopt(MMAP_THRESHOLD, OLD_HEAP_BYTES):
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
