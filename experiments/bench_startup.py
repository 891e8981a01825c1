"""How long the command line takes to answer: `dsdm --help` and `dsdm status`, warm.

    python experiments/bench_startup.py [--repeats 15]

The commands alternate with a Python that does nothing, whose time says how fast the machine is.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import ROOT, figure, write_figures

QUICKSTART = ROOT / "experiments" / "quickstart.yaml"


def main() -> None:
    """Measures and writes `startup.*_seconds`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dsdm = [sys.executable, "-m", "dsdm"]
        commands = {
            "python": [sys.executable, "-c", ""],
            "help": [*dsdm, "--help"],
            "status": [*dsdm, "status", str(QUICKSTART), "--run", str(Path(folder) / "run")],
        }
        seconds = _alternating(commands, options.repeats)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    unit = f"seconds, median of {options.repeats}; Python alone {medians['python']:.3f}"
    write_figures(
        "startup",
        [
            figure(f"startup.{name}_seconds", medians[name], unit, *_quartiles(seconds[name]))
            for name in ("help", "status")
        ],
    )


def _alternating(commands: dict[str, list[str]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each command in each round; one more round before them warms the disk's cache."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(repeats + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _quartiles(values: list[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


if __name__ == "__main__":
    main()
