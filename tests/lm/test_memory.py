"""Keeping freed memory, in processes of their own: it can't be undone."""

import os
import platform
import subprocess
import sys

import pytest

from dsdm.lm.memory import MALLOC_SETTINGS

PROGRAM = """
import resource, sys
import numpy as np
from dsdm.lm.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(MALLOC_SETTINGS)}
ENVIRONMENT["NUMPY_MADVISE_HUGEPAGE"] = (
    "0"  # a huge page, which is not always to be had, faults once
)


def faults(how: str, **environment: str) -> int:
    """Page faults of making an array of 64 MiB twenty times, after once."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    assert faults("kept") < faults("default") / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_what_the_environment_says_of_malloc_is_left_alone() -> None:
    threshold = {"MALLOC_MMAP_THRESHOLD_": "100000"}
    assert faults("kept", **threshold) > faults("default") / 2
