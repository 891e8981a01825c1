"""Injects faults into a small run's storage and sees whether each is detected by name.

    python experiments/storage_faults.py [--every 1]

Faults: a full disk (ENOSPC) and a failing one (EIO) at each kind of write of each stage, a limit on
the size of files (a real one, of the system), reads that fail (EIO, a real one), and for each kind
of finished file a flipped bit, a cut, and an absence. A fault is detected where the command ends
with exit code 2 and one message that names the file or the system's error, and, once the fault is
gone, the same command ends with the bytes of the undisturbed run. What needs no detection because
the command writes it anew with the same bytes counts as detected too. All else is `undetected`: a
wrong result, a traceback, a message that names nothing.
"""

import argparse
import contextlib
import errno
import io
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kills import Begins, Boundary, in_a_fork, list_boundaries
from record import figure, write_figures
from small_run import contents, differing, make_world, run_all, small_experiment

from dsdm.artifacts import PER_RUN
from dsdm.cli import main as dsdm
from dsdm.experiment import save_experiment

NOT_WRITES = ("step", "rmtree")
"""Boundaries that are no writes, or whose errors are ignored."""
FILE_LIMITS = (100, 1_000, 4_000, 20_000, 100_000)
ALWAYS_FAILS = Path("/proc/self/mem")
"""Reading it from the start is an input/output error."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and what a message must say of it."""

    name: str
    named: str
    damage: Callable[[Path], Callable[[], None]] = lambda world: lambda: None
    """Does it to a world whose run is finished; returns what takes it back."""
    raises: Callable[[int, Boundary], None] | None = None
    """Called at each boundary of a run from nothing."""
    limit: int | None = None
    """Most bytes of a file in a run from nothing."""

    @property
    def is_from_nothing(self) -> bool:
        """Whether the run is made with the fault, not found with it."""
        return self.raises is not None or self.limit is not None


def main() -> None:
    """Injects every fault and writes `storage_faults.injected` and `.undetected`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="only every n-th fault")
    parser.add_argument("--no-figures", action="store_true", help="leave experiments/results alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder) / "world")
        faults = harness.faults()[:: options.every]
        undetected = [fault.name for fault in faults if not harness.is_detected(fault)]
    rows = [
        figure("storage_faults.injected", len(faults), "faults"),
        figure("storage_faults.undetected", len(undetected), "faults"),
    ]
    if not options.no_figures:
        write_figures("storage_faults", rows)
    print(f"{len(faults)} faults, {len(undetected)} undetected")
    sys.exit("\n".join(undetected) or None)


class Harness:
    """A world with a finished run, and what is done to it."""

    def __init__(self, world: Path) -> None:
        self.world = world
        make_world(world)
        experiment = small_experiment(world)
        save_experiment(experiment, world / "small.yaml")
        body = partial(_run, world)
        self.boundaries, ending = list_boundaries(body, world)
        assert not ending.error, ending.error
        self.expected = contents(world / "run")
        (world / "run").rename(world / "finished")

    def faults(self) -> list[Fault]:
        """The table."""
        return [
            *write_faults(self.boundaries),
            *(
                Fault(f"files of at most {limit} bytes", "File too large", limit=limit)
                for limit in FILE_LIMITS
            ),
            *finished_file_faults(self.world / "finished"),
            *source_faults(),
        ]

    def is_detected(self, fault: Fault) -> bool:
        """Whether one fault is; prints what was said where it is not."""
        run = self.world / "run"
        shutil.rmtree(run, ignore_errors=True)
        if not fault.is_from_nothing:
            shutil.copytree(self.world / "finished", run)
        repair = fault.damage(self.world)
        code, said = self._command(fault)
        is_same = not differing(self.expected, contents(run)) if code == 0 else False
        repair()
        is_named = code == 2 and fault.named in said and said.count("\n") == 1
        if is_named and fault.is_from_nothing:
            again, more = self._command()
            said += more
            is_same = is_named = again == 0 and not differing(self.expected, contents(run))
        if not (is_named or is_same):
            print(f"{fault.name}: exit code {code}\n{said}")
        return is_named or is_same

    def _command(self, fault: Fault | None = None) -> tuple[int, str]:
        """Exit code and standard error of `dsdm run`."""
        said = self.world / "said"
        said.unlink(missing_ok=True)
        body = partial(_command, self.world, fault.limit if fault else None)
        ending = in_a_fork(body, at=fault.raises if fault else None)
        if ending.error:
            return 1, ending.error
        code, _, text = said.read_text(encoding="utf-8").partition("\n")
        return int(code), text


def _run(world: Path, begins: Begins) -> None:
    run_all(small_experiment(world), begins=begins)


def _command(world: Path, limit: int | None, begins: Begins) -> None:
    error = io.StringIO()
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    begins("")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        code = dsdm(["run", str(world / "small.yaml")])
    said = [line for line in error.getvalue().splitlines() if line.startswith("dsdm: ")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    (world / "said").write_text(f"{code}\n" + "".join(f"{line}\n" for line in said))


def write_faults(boundaries: list[Boundary]) -> Iterator[Fault]:
    """A full and a failing disk at the first write of each kind in each stage."""
    firsts: dict[Boundary, int] = {}
    for number, boundary in enumerate(boundaries, 1):
        if not boundary.name.endswith(NOT_WRITES):
            firsts.setdefault(boundary, number)
    for boundary, number in firsts.items():
        for code in (errno.ENOSPC, errno.EIO):
            name = f"{errno.errorcode[code]} {boundary.name} in {boundary.stage}"
            yield Fault(name, os.strerror(code), raises=partial(_fail_at, number, code))


def _fail_at(last: int, code: int, number: int, boundary: Boundary) -> None:
    if number == last:
        raise OSError(code, os.strerror(code))


def finished_file_faults(run: Path) -> Iterator[Fault]:
    """What can happen to one file of each kind; another one of the kind is as good."""
    kinds: dict[str, str] = {}
    for file in sorted(run.rglob("*")):
        if file.is_file():
            name = file.relative_to(run).as_posix()
            kinds.setdefault(re.sub(r"\d+", "N", name), name)
    for number, name in enumerate(kinds.values()):
        yield Fault(f"flipped bit in {name}", name, partial(_flip, name, number))
        yield Fault(f"cut {name}", name, partial(_cut, name))
        yield Fault(f"unreadable {name}", name, partial(_make_unreadable, Path("run") / name))
        if Path(name).name not in PER_RUN:  # without its manifest an artifact is only missing
            yield Fault(f"absent {name}", name, partial(_remove, name))


def source_faults() -> Iterator[Fault]:
    """Reads of what the user gives that fail."""
    for name in ("pool/0.jsonl", "pool/1.jsonl", "target.jsonl", "small.yaml"):
        yield Fault(f"unreadable {name}", name, partial(_make_unreadable, Path(name)))


def _flip(name: str, seed: int, world: Path) -> Callable[[], None]:
    path = world / "run" / name
    content = bytearray(path.read_bytes())
    at = seed * 7919 % max(len(content), 1)
    if content:
        content[at] ^= 1 << seed % 8
        path.write_bytes(content)
    return lambda: None


def _cut(name: str, world: Path) -> Callable[[], None]:
    path = world / "run" / name
    os.truncate(path, path.stat().st_size // 2)
    return lambda: None


def _remove(name: str, world: Path) -> Callable[[], None]:
    (world / "run" / name).unlink()
    return lambda: None


def _make_unreadable(name: Path, world: Path) -> Callable[[], None]:
    path, aside = world / name, world / "aside"
    path.rename(aside)
    path.symlink_to(ALWAYS_FAILS)

    def repair() -> None:
        path.unlink(missing_ok=True)
        aside.rename(path)

    return repair


if __name__ == "__main__":
    main()
