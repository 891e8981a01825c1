"""Writes docs/results.md, and the table in docs/reliability.md, from experiments/results/*.json.

With --check it fails where they differ.

Every measured figure that README and docs state has its row there. The JSON files are lists of
`{name, value, low, high, unit, command, commit, machine, date}`, written by committed commands.
TABLES says which of them stand side by side; a table is written where it has figures.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
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
HEAD = """# Measured figures

Written by `make docs` from `experiments/results/*.json`: what was compared side by side, then every
figure with its command, commit and machine. Losses are in nats a target token, minus those of
random rows, each used once, at the same number of training tokens: below zero is better than
random. Beside them, in brackets, 95% intervals; what they are over is in the unit of the figure.
What went wrong, and what was tried and left, is in [experiments/LOG.md](../experiments/LOG.md).
"""
EVERY_FIGURE = f"""
## Every figure

{TABLE}"""
FIELDS = {"name", "value", "low", "high", "unit", "command", "commit", "machine", "date"}
SIGNS = {"": "", "at least": "≥ ", "at most": "≤ "}
"""Before a figure that is the end of what was measured; `bounds` says of which."""


@dataclass(frozen=True)
class Pivot:
    """Figures side by side: their names say in which row and in which column."""

    title: str
    text: str
    pattern: str
    """Of whole names, with the groups `row` and `column`; a column that a name lacks is ""."""
    columns: tuple[str, ...]
    """In their order; those without figures are left out."""
    unnamed: str = ""
    """What the column "" is called."""
    first: tuple[str, ...] = ()
    """Rows that come before the others, which are by name."""

    def lines(self, rows: list[dict[str, Any]]) -> Iterator[str]:
        """The section; nothing where it has no figures."""
        cells: dict[str, dict[str, str]] = {}
        for row in rows:
            if match := re.fullmatch(self.pattern, row["name"]):
                cells.setdefault(match["row"], {})[match["column"] or ""] = format_cell(row)
        columns = [c for c in self.columns if any(c in found for found in cells.values())]
        if not columns:
            return
        yield f"\n## {self.title}\n\n{self.text}\n\n"
        called = [CALLED.get(column, column) or self.unnamed for column in columns]
        yield "| | " + " | ".join(called) + " |\n"
        yield "|---" + "|---:" * len(columns) + "|\n"
        for name in sorted(cells, key=(*self.first, *cells).index):
            found = cells[name]
            line = [CALLED.get(name, name), *(found.get(column, "") for column in columns)]
            yield "| " + " | ".join(line) + " |\n"


CALLED = {
    "all": "all data",
    "bestsource": "best source",
    "bm25": "BM25",
    "bottom": "worst by dsdm",
    "clean.2m.2m": "English prose and questions alone",
    "cleanlong.2m.2m": "the same, by the end of the proxy's training alone",
    "cleanpair.2m.2m": "the same, two proxies of an eighth of the length",
    "classifier": "classifier",
    "cs_algorithms": "CS-Algorithms",
    "dsir": "DSIR",
    "ekfac": "EK-FAC",
    "gradient": "plain gradient",
    "heldout_mean": "tasks not selected for",
    "jeopardy": "Jeopardy",
    "lambada": "LAMBADA",
    "less": "LESS",
    "lowloss": "lowest loss",
    "mix": "the three together",
    "mixed.2m.2m": "all sources",
    "shrunk.2m.2m": "the same, shrinkage 0.3",
    "long.2m.2m": "all sources, by the end of the proxy's training alone",
    "slopes.2m.2m": "the same without shrinkage",
    "short.2m.2m": "all sources, proxies of half the length",
    "pair.2m.2m": "all sources, two proxies of an eighth of the length",
    "mixed.2m.8m": "all sources, four times the training",
    "mixed.7m.2m": "all sources, a larger model",
    "multiplier_gross": "gross",
    "multiplier_net": "net, in FLOPs",
    "multiplier_net_seconds": "net, in seconds",
    "repeated": "random, repeated as often",
    "semdedup": "SemDeDup",
    "skewed": "subsets of skewed sources",
    "similarity": "embedding similarity",
    "sourcematched": "random, of the same sources",
    "squad": "SQuAD",
    "top_minus_random": "loss minus random's",
    "trak": "TRAK",
}
"""What rows and columns are called, where the figures' names don't say it well."""
ARMS = (
    "dsdm",
    "sourcematched",
    "bestsource",
    "dsir",
    "classifier",
    "bm25",
    "semdedup",
    "lowloss",
    "repeated",
    "bottom",
)
"""Methods, ours and its controls first."""
TASKS = ("squad", "jeopardy", "lambada", "cs_algorithms", "mean", "mix", "heldout_mean")
METHOD = "(?P<row>[a-z0-9]+)"
TABLES = (
    Pivot(
        "The pilot: the best tenth",
        "Models of 1.9M parameters, trained for 4 epochs on a tenth of a mixed pool of 10M tokens "
        "([pilot.yaml](../experiments/pilot.yaml)). Report part.",
        rf"pilot\.{METHOD}\.(?P<column>[a-z]+)\.top10_minus_random",
        TASKS,
    ),
    Pivot(
        "The pilot: the worst tenth",
        "The same at the other end of each ranking: above zero, if scores mean anything.",
        rf"pilot\.{METHOD}\.(?P<column>[a-z]+)\.bottom10_minus_random",
        TASKS,
    ),
    Pivot(
        "Against what others would select",
        "The best 5% of the pilot's pool for 4 epochs, by each method "
        "([mixed.yaml](../experiments/compare/mixed.yaml)); a seed has proxies, random rows and "
        "initial weights of its own. Report part.",
        rf"primary\.(?P<column>[a-z_]+)\.{METHOD}\.loss_minus_random",
        TASKS,
        first=ARMS,
    ),
    Pivot(
        "How much more compute random needs",
        "For the same loss on the three targets together, in the comparison above "
        "([what is counted](compare.md#the-compute-multiplier)).",
        rf"primary\.mix\.{METHOD}\.(?P<column>multiplier_[a-z_]+)",
        ("multiplier_gross", "multiplier_net", "multiplier_net_seconds"),
        first=ARMS,
    ),
    Pivot(
        "Other pools, sizes and budgets",
        "The three targets together. The proxy is read at a quarter of its training, too, except "
        "where its end or other lengths are named: there at its end alone "
        "([why](method.md#how-long-a-proxy-is-trained)).",
        r"compare\.(?P<row>[a-z0-9.]+)\.mix\.(?P<column>[a-z0-9]+)\.loss_minus_random",
        ("dsdm", "sourcematched", "dsir", "bottom"),
        first=(
            "mixed.2m.2m",
            "shrunk.2m.2m",
            "long.2m.2m",
            "slopes.2m.2m",
            "short.2m.2m",
            "pair.2m.2m",
            "mixed.2m.8m",
            "mixed.7m.2m",
            "clean.2m.2m",
            "cleanlong.2m.2m",
            "cleanpair.2m.2m",
        ),
    ),
    Pivot(
        "Selected for one task, measured on each",
        "A row is what was selected for, a column what it was measured on.",
        r"transfer\.(?P<row>[a-z_]+)\.(?P<column>[a-z_]+)",
        TASKS,
    ),
    Pivot(
        "The same by the end of the proxy's training alone",
        "Without the early checkpoint that says what kinds of text help.",
        r"transfer_long\.(?P<row>[a-z_]+)\.(?P<column>[a-z_]+)",
        TASKS,
    ),
    Pivot(
        "The same by DSIR",
        "What its weights for one task select, measured on each.",
        r"transfer_dsir\.(?P<row>[a-z_]+)\.(?P<column>[a-z_]+)",
        TASKS,
    ),
    Pivot(
        "Predicting what retraining does",
        "Linear datamodeling scores: the rank correlation of what an estimator predicts for a "
        "random subset of the pool with the loss of models trained on it, mean of three targets "
        "([experiments/lds](../experiments/lds/scratch.yaml)). *Ceiling* is the most that any "
        "prediction could reach, *random* what random scores reach; a cost is in trainings of one "
        "proxy, by FLOPs.",
        r"lds\.scratch\.(?P<row>[a-z0-9]+)(?:\.(?P<column>skewed|cost))?",
        ("", "skewed", "cost"),
        "random halves",
    ),
    Pivot(
        "Predicting what another fine-tune does",
        "The same for LoRA on a small model, 200 conversations and two targets "
        "([finetune.yaml](../experiments/lds/finetune.yaml)).",
        r"lds\.finetune\.(?P<row>[a-z0-9]+)(?:\.(?P<column>skewed|cost))?",
        ("", "skewed", "cost"),
        "random halves",
    ),
    Pivot(
        "What `dsdm check` says, and what retraining shows",
        "Set-ups on the quickstart's pool, three of them broken "
        "([check.py](../experiments/check/check.py)). *Verdict* 1 is trust; beside it models "
        "trained on the selection minus models trained on random rows, on the tune part.",
        r"check\.(?P<row>[a-z_]+)\.(?P<column>verdict|top_minus_random)",
        ("verdict", "top_minus_random"),
    ),
    Pivot(
        "Choosing conversations for a fine-tune",
        "The best 100 of 2,000 conversations for 4 epochs, LoRA on a small model pretrained here "
        "([small.yaml](../experiments/finetune/small.yaml)); *selecting* is its cost in fine-tunes "
        "of that length, in FLOPs.",
        r"finetune\.(?:(?P<column>squad|jeopardy|mean)\.)?(?P<row>[a-z0-9]+)"
        r"\.(?:loss_minus_random|cost)",
        ("squad", "jeopardy", "mean", ""),
        "selecting",
    ),
)


def main(arguments: list[str]) -> int:
    """0 where the pages are written, or, with --check, up to date."""
    rows = load_results(ROOT / "experiments" / "results")
    pages = {
        PAGE: results_page(rows),
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


def results_page(rows: list[dict[str, Any]]) -> str:
    """What stands side by side, and below it every figure."""
    tables = [line for table in TABLES for line in table.lines(rows)]
    return HEAD + "".join(tables) + EVERY_FIGURE + "".join(format_row(row) for row in rows)


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
            if set(row) - {"bounds"} != FIELDS:
                raise ValueError(f"{file}: {row.get('name')}: fields {sorted(set(row) ^ FIELDS)}")
            if row["name"] in rows:
                raise ValueError(f"{file}: {row['name']}: occurs twice")
            rows[row["name"]] = row
    return [rows[name] for name in sorted(rows)]


def format_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    value, low, high = signs_of(row)
    has_interval = row["low"] is not None and row["high"] is not None
    interval = (
        f"{low}{format_number(row['low'])} to {high}{format_number(row['high'])}"
        if has_interval
        else ""
    )
    cells = [row["name"], value + format_number(row["value"]), interval, row["unit"]]
    cells += [f"`{row['command']}`", row["commit"], row["machine"], row["date"]]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def format_cell(row: dict[str, Any]) -> str:
    """A value and, where it has one, its interval, for reading side by side."""
    value, low, high = signs_of(row)
    if row["low"] is None or row["high"] is None:
        return f"{value}{row['value']:.3g}"
    return f"{value}{row['value']:.2f} [{low}{row['low']:.2f}, {high}{row['high']:.2f}]"


def signs_of(row: dict[str, Any]) -> list[str]:
    """What stands before value, low and high."""
    return [SIGNS[bound] for bound in row.get("bounds") or ("", "", "")]


def format_number(value: float) -> str:
    """Four significant digits; whole numbers whole."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
