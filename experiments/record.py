"""Measured figures: rows of experiments/results, written by the command that measured them."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"


def figure(
    name: str,
    value: float,
    unit: str,
    low: float | None = None,
    high: float | None = None,
    bounds: Sequence[str] = (),
) -> dict[str, Any]:
    """One row: the figure with its interval, where it has one, and how it was measured.

    `bounds` says of value, low and high whether they are `at least` or `at most`, or as they are.
    """
    found = {"bounds": list(bounds)} if any(bounds) else {}
    return found | {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "unit": unit,
        "command": command(),
        "commit": commit(),
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def ratio_figure(name: str, seconds: np.ndarray, against: np.ndarray) -> dict[str, Any]:
    """The median of the repeats' ratios with its quartiles."""
    count = min(len(seconds), len(against))
    ratios = seconds[:count] / against[:count]
    low, high = np.quantile(ratios, [0.25, 0.75])
    unit = f"ratio, quartiles of {count} repeats"
    return figure(name, float(np.median(ratios)), unit, float(low), float(high))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; none where it is not there yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Replaces the lines of a JSONL file."""
    _replace(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_figures(file: str) -> list[dict[str, Any]]:
    """The rows of one file in experiments/results; none where it is not there yet."""
    path = RESULTS / f"{file}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def write_figures(file: str, rows: list[dict[str, Any]]) -> None:
    """Replaces the rows of one file in experiments/results, and prints them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{file}.json"
    _replace(path, json.dumps(rows, indent=1) + "\n")
    for row in rows:
        interval = "" if row["low"] is None else f"  [{row['low']:.4g}, {row['high']:.4g}]"
        print(f"{row['name']:50} {row['value']:.4g}{interval} {row['unit']}")


def add_figures(file: str, rows: list[dict[str, Any]]) -> None:
    """Adds to the rows of one file, in place of those of the same names."""
    found = {row["name"]: row for row in [*read_figures(file), *rows]}
    write_figures(file, [found[name] for name in sorted(found)])


def _replace(path: Path, text: str) -> None:
    # Not by dsdm.artifacts: peers' environments, which this is imported in, have no dsdm.
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def command() -> str:
    """What was typed, from the repository's root."""
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    return " ".join(["python", str(script), *sys.argv[1:]])


@cache
def commit() -> str:
    """The commit that was measured, marked where the working tree differs from it.

    What experiments themselves write does not count.
    """
    named = _git("describe", "--always", "--exclude", "*").stdout.strip()
    if not named:
        return "unknown"
    written = [":(exclude)experiments/results", ":(exclude)experiments/*/*losses.jsonl"]
    is_changed = _git("diff", "--quiet", "HEAD", "--", ".", *written).returncode != 0
    return f"{named}-dirty" if is_changed else named


def _git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def has_bf16() -> bool:
    """Whether the processor or the GPU multiplies bf16 by itself."""
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


def machine() -> str:
    """Processors, and the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    bf16 = "bf16" if has_bf16() else "no bf16"
    return f"{os.cpu_count()} cores {platform.machine()}, {bf16}"
