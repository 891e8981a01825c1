"""Runs that share finished parts with another run, so that these need not be made again."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def link_parts(run: Path, other: Path, names: Iterable[str]) -> None:
    """Gives `other` the named parts of `run` that it lacks, as hard links."""
    for name in names:
        if not (other / name).exists():
            shutil.copytree(run / name, other / name, copy_function=os.link)
