"""Writes docs/results.md, and the table in docs/reliability.md, from experiments/results/*.json.

With --check it fails where they differ.

Every measured figure that README and docs state has its row there. The JSON files are lists of
`{name, value, low, high, unit, command, commit, machine, date}`, written by committed commands.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
RELIABILITY = ROOT / "docs" / "reliability.md"
RELIABILITY_NAMES = ("faults.", "storage_faults.", "fuzz.", "scale.", "ray.")
BEGIN = "<!-- written by `make docs` from here -->\n\n"
END = "\n<!-- to here -->\n"
TABLE = """| name | value | interval | unit | command | commit | machine | date |
|---|---:|---:|---|---|---|---|---|
"""
HEAD = f"""# Measured figures

Written by `make docs` from `experiments/results/*.json`. The interval is the one that the command
computes; its own page says which.

{TABLE}"""
FIELDS = {"name", "value", "low", "high", "unit", "command", "commit", "machine", "date"}


def main(arguments: list[str]) -> int:
    """0 where the pages are written, or, with --check, up to date."""
    rows = load_results(ROOT / "experiments" / "results")
    pages = {
        PAGE: HEAD + "".join(format_row(row) for row in rows),
        RELIABILITY: with_table(RELIABILITY.read_text(encoding="utf-8"), rows),
    }
    if "--check" not in arguments:
        for path, page in pages.items():
            path.write_text(page, encoding="utf-8")
        return 0
    old = [p for p, page in pages.items() if not p.exists() or p.read_text("utf-8") != page]
    for path in old:
        print(f"{path.relative_to(ROOT)} is not what experiments/results holds: run `make docs`.")
    return 1 if old else 0


def with_table(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with the figures of its kind between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [format_row(row) for row in rows if row["name"].startswith(RELIABILITY_NAMES)]
    return before + BEGIN + TABLE + "".join(lines) + END + after


def load_results(folder: Path) -> list[dict[str, Any]]:
    """All rows, by name.

    Raises:
        ValueError: a row lacks a field or has one too many, or a name occurs twice.
    """
    rows: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            if set(row) != FIELDS:
                raise ValueError(f"{file}: {row.get('name')}: fields {sorted(set(row) ^ FIELDS)}")
            if row["name"] in rows:
                raise ValueError(f"{file}: {row['name']}: occurs twice")
            rows[row["name"]] = row
    return [rows[name] for name in sorted(rows)]


def format_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    has_interval = row["low"] is not None and row["high"] is not None
    interval = (
        f"{format_number(row['low'])} to {format_number(row['high'])}" if has_interval else ""
    )
    cells = [row["name"], format_number(row["value"]), interval, row["unit"]]
    cells += [f"`{row['command']}`", row["commit"], row["machine"], row["date"]]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def format_number(value: float) -> str:
    """Four significant digits; whole numbers whole."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
