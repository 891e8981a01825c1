"""The other side of `peers.worker`: a method in a process, run on request."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import ROOT

EXPERIMENTS = ROOT / "experiments"
MODULES = {"dattri-llm": "dattri_llm"}
"""Of peers whose name is no module's."""


class FailedError(Exception):
    """A method raised, or its process died; the message says what it said."""


class MethodProcess:
    """A method that has been set up and waits to be run."""

    def __init__(
        self, peer: str, method: str, precision: str, folder: Path, python: Path | None
    ) -> None:
        """Starts the process and waits until it is ready.

        Raises:
            FailedError: it could not be set up.
        """
        module = MODULES.get(peer, peer)
        own = [] if python is not None else [str(ROOT / "src")]
        path = os.pathsep.join([str(EXPERIMENTS), *own])
        self._log = folder / f"{peer}.{method}.{precision}.log"
        worker = [str(python or sys.executable), "-m", "peers.worker", module]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [*worker, method, precision, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            )
        try:
            self._answer()
        except FailedError:
            self.stop()
            raise

    def run(self) -> dict[str, Any]:
        """One more run.

        Raises:
            FailedError: it went wrong.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise FailedError(self._last_words()) from error
        return self._answer()

    def stop(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise FailedError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FailedError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"its process was killed by signal {-code}, as for want of memory"
        log = self._log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in log.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {code}"
