"""Seconds that `make demo` takes in a clean clone: environment, installation and run.

python experiments/time_demo.py
"""

import subprocess
import tempfile
import time
from pathlib import Path

from record import ROOT, figure, write_figures


def main() -> None:
    """Measures and writes `demo.seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "dsdm"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        start = time.monotonic()
        subprocess.run(["make", "demo"], cwd=clone, check=True)
        seconds = time.monotonic() - start
    write_figures("demo", [figure("demo.seconds", round(seconds, 1), "seconds")])


if __name__ == "__main__":
    main()
