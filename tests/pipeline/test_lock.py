"""Commands that would work in one run folder at once."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsdm.errors import ArtifactError
from dsdm.experiment import load_experiment
from dsdm.lock import alone_in
from dsdm.stages import redo, run_check, run_experiment

HOLDER = """
import sys
from pathlib import Path
from dsdm.lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that is at work in the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_command_is_refused_and_touches_nothing(tiny: Path) -> None:
    experiment = load_experiment(tiny)
    with held_elsewhere(experiment.folder):
        before = sorted(experiment.folder.rglob("*"))
        with pytest.raises(ArtifactError, match="another command is at work"):
            run_experiment(experiment, until="tokenizer")
        with pytest.raises(ArtifactError, match="another command is at work"):
            redo(experiment, "tokenizer")
        with pytest.raises(ArtifactError, match="another command is at work"):
            run_check(experiment)
        assert sorted(experiment.folder.rglob("*")) == before


def test_a_killed_command_keeps_nobody_out(tiny: Path) -> None:
    experiment = load_experiment(tiny)
    with held_elsewhere(experiment.folder) as process:
        process.kill()
        process.wait()
        run_experiment(experiment, until="tokenizer")


def test_two_threads_of_a_process_are_two_commands(tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor(1) as other_thread,
        alone_in(tmp_path),
        pytest.raises(ArtifactError, match="another command is at work"),
    ):
        other_thread.submit(enter, tmp_path).result()
    enter(tmp_path)


def enter(folder: Path) -> None:
    with alone_in(folder):
        pass


@pytest.mark.parametrize("call", ["os.open", "fcntl.flock"])
def test_a_folder_without_locks_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refused(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(call, refused)
    enter(tmp_path)
