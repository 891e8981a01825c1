"""The peak of a process's anonymous memory: pages of mapped files are not counted."""

import threading
import time
from pathlib import Path


class PeakMemory:
    """Watches this process's anonymous resident memory."""

    def __init__(self) -> None:
        self._bytes = 0
        self._running = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak in bytes."""
        self._running = False
        self._thread.join()
        return self._bytes

    def _watch(self) -> None:
        while self._running:
            self._bytes = max(self._bytes, _anonymous_bytes())
            time.sleep(0.02)


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc/self/status, which this system lacks")
