"""Processes that end with SIGKILL: at a boundary between two writes, or at any moment of a stage.

A boundary is the moment before or after a rename, a removal, a file's way to the disk, a write of
an array or table, or a step of the optimizer. One process imports everything and forks the others,
because importing takes longer than running.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers.models.gpt2.modeling_gpt2  # noqa: F401 - every fork needs it

import dsdm.baselines.dsir
import dsdm.data.near_duplicates
import dsdm.data.overlap
import dsdm.datamodel.score
import dsdm.evaluation.losses
import dsdm.lm.train
import dsdm.reporting.page  # noqa: F401 - every fork needs them
from dsdm.data.arrays import ArrayFile

WATCHED: tuple[tuple[Any, str], ...] = (
    (os, "replace"),
    (os, "rename"),
    (os, "fsync"),
    (shutil, "rmtree"),
    (np, "save"),
    (np, "savez"),
    (pq, "write_table"),
    (pq.ParquetWriter, "write_table"),
    (ArrayFile, "append"),
    (torch.optim.AdamW, "step"),
)

Begins = Callable[[str], None]
"""Is told which stage begins."""
Body = Callable[[Begins], None]
"""What a process does."""


@dataclass(frozen=True)
class Boundary:
    """A moment between two writes."""

    name: str
    stage: str


@dataclass(frozen=True)
class Kill:
    """When a process ends."""

    boundary: int | None = None
    """At this boundary, counted from 1."""
    stage: str | None = None
    """Some seconds after this stage began."""
    seconds: float = 0.0
    victim: Callable[[], int | None] | None = None
    """The process to end, None if there is none at the moment; without it, the one that runs."""


@dataclass(frozen=True)
class Ending:
    """How a process ended."""

    is_killed: bool
    stage: str
    """That it was in at the end, or in when its victim was killed."""
    seconds: dict[str, float]
    """That each stage took, as far as it came."""
    error: str
    """What it said where it neither finished nor was killed."""
    has_struck: bool
    """Whether the kill took place, of this process or of its victim."""


class Boundaries:
    """Counts the boundaries that this process passes, and calls `at` with each one."""

    def __init__(self, at: Callable[[int, Boundary], None]) -> None:
        self.stage = ""
        self.count = 0
        self._at = at

    def watch_all(self) -> None:
        """Puts itself around everything that is watched, until the process ends."""
        for owner, name in WATCHED:
            self._watch(owner, name)

    def _cross(self, name: str) -> None:
        self.count += 1
        self._at(self.count, Boundary(name, self.stage))

    def _watch(self, owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._cross(f"before {name}")
            result = original(*args, **kwargs)
            self._cross(f"after {name}")
            return result

        setattr(owner, name, watched)


def list_boundaries(body: Body, scratch: Path) -> tuple[list[Boundary], Ending]:
    """The boundaries that a whole run passes, in order, and how long its stages take."""
    written = scratch / "boundaries"

    def note(number: int, boundary: Boundary) -> None:
        # Not through Python's buffers: the process ends without emptying them.
        os.write(note_to, f"{boundary.name}\t{boundary.stage}\n".encode())

    note_to = os.open(written, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    ending = in_a_fork(body, at=note)
    os.close(note_to)
    lines = written.read_text(encoding="utf-8").splitlines()
    return [Boundary(*line.split("\t")) for line in lines], ending


def in_a_fork(
    body: Body, kill: Kill | None = None, at: Callable[[int, Boundary], None] | None = None
) -> Ending:
    """Runs `body` in a process of its own that ends as `kill` says.

    Args:
        body: What to run.
        kill: When the process ends; None: when it is finished.
        at: Called at each boundary; without it and a kill at one, none is watched.
    """
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        _be_the_child(body, kill, at, writes)
    os.close(writes)
    watcher = _Watcher(child, kill)
    with open(reads, encoding="utf-8", errors="replace") as lines:
        os.set_blocking(lines.fileno(), False)
        watcher.watch(lines.fileno())
    _, status = os.waitpid(child, 0)
    is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    is_whole = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    error = "" if is_killed or is_whole else watcher.error or f"ended with status {status}"
    return Ending(
        is_killed,
        watcher.struck_stage or watcher.stage,
        watcher.seconds,
        error,
        is_killed or watcher.struck_stage is not None,
    )


def _be_the_child(
    body: Body, kill: Kill | None, at: Callable[[int, Boundary], None] | None, writes: int
) -> None:
    """Never returns."""

    def die_at(number: int, boundary: Boundary) -> None:
        if number == (kill and kill.boundary):
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        torch.set_num_threads(1)
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - progress bars
        boundaries = Boundaries(at or die_at)

        def begins(stage: str) -> None:
            boundaries.stage = stage
            os.write(writes, f"stage {stage}\n".encode())

        if at is not None or (kill is not None and kill.boundary is not None):
            boundaries.watch_all()
        body(begins)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a fork must never return
        os.write(writes, f"error {traceback.format_exc()!r}\n".encode())
        os._exit(1)


class _Watcher:
    """Follows a child through what it writes, and kills at the moment that was chosen."""

    def __init__(self, child: int, kill: Kill | None) -> None:
        self.child = child
        self.kill = kill
        self.stage = ""
        self.error = ""
        self.seconds: dict[str, float] = {}
        self.struck_stage: str | None = None
        self._began = time.monotonic()
        self._due: float | None = None
        self._rest = b""

    def watch(self, reads: int) -> None:
        """Until the child closes its end."""
        while True:
            if self._due is not None and time.monotonic() >= self._due:
                self._strike()
            try:
                block = os.read(reads, 1 << 16)
            except BlockingIOError:
                time.sleep(0.002)
                continue
            if not block:
                break
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                self._hear(line.decode())
        self._end_stage()

    def _hear(self, line: str) -> None:
        kind, _, what = line.partition(" ")
        if kind == "error":
            self.error = what
            return
        self._end_stage()
        self.stage = what
        self._began = time.monotonic()
        if self.kill is not None and self.kill.stage == what:
            self._due = self._began + self.kill.seconds

    def _end_stage(self) -> None:
        if self.stage:
            self.seconds[self.stage] = time.monotonic() - self._began

    def _strike(self) -> None:
        assert self.kill is not None
        victim = self.kill.victim() if self.kill.victim else self.child
        if victim is None:
            return
        self._due = None
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            self.struck_stage = self.stage
