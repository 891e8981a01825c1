"""What a run came to, in lines for a terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dsdm.artifacts import load_manifest
from dsdm.evaluation.comparison import BASELINE, ComparedLoss, compare_losses
from dsdm.pipeline.losses import load_losses
from dsdm.pipeline.run import Run
from dsdm.pipeline.scores_table import SCORES

REPORT = "report.html"


def summary_lines(run: Run) -> list[str]:
    """What was selected, where everything is, and what the comparison found."""
    lines = [*_selection_lines(run.folder), *_place_lines(run.folder)]
    compare = run.experiment.compare
    if compare is not None:
        targets = [target.name for target in run.experiment.targets]
        for part in compare.parts:
            lines += comparison_lines(
                compare_losses(load_losses(run.folder, part, compare, targets)), part
            )
    return lines


def comparison_lines(compared: Sequence[ComparedLoss], part: str) -> list[str]:
    """The comparison as a table; nothing where no evaluation is finished."""
    if not compared:
        return []
    header = ["target", "arm", "seeds", "nats", f"- {BASELINE}", "95% interval"]
    rows = [header, *(_cells(line) for line in compared)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    title = f"Loss on the targets' {part} part, in nats per target token (lower is better):"
    return ["", title, *table, *_notes(compared)]


def interval_note(compared: Sequence[ComparedLoss]) -> str:
    """What the intervals of a comparison are over; empty where it has none."""
    over = {line.over for line in compared if line.difference is not None}
    if not over:
        return ""
    if over == {"seeds"}:
        return "Intervals: paired t over the seeds that both arms have."
    return (
        "Intervals: paired bootstrap over the examples, for one seed. They leave out how much "
        "another seed would change: set compare.seeds to 2 or more for that."
    )


def _selection_lines(folder: Path) -> Iterator[str]:
    manifest = load_manifest(folder / "selection")
    if manifest is None:
        yield "selected  nothing yet"
        return
    counts = manifest.counts
    share = counts["tokens"] / counts["pool_tokens"]
    yield (
        f"selected  {counts['candidates']:,} of {counts['pool_candidates']:,} candidates, "
        f"{counts['tokens']:,} of {counts['pool_tokens']:,} tokens ({share:.1%} of the pool)"
    )


def _place_lines(folder: Path) -> Iterator[str]:
    if load_manifest(folder / "dataset") is not None:
        yield f"dataset   {folder / 'dataset'}"
    if load_manifest(folder / "scores" / "all") is not None:
        yield f"scores    {folder / 'scores' / 'all' / SCORES}"
    report = folder / REPORT
    yield f"report    {report}" if report.exists() else f"report    dsdm report {folder}"


def _cells(line: ComparedLoss) -> list[str]:
    cells = [line.target, line.arm, str(line.num_seeds), f"{line.loss_nats:.4f}"]
    if line.difference is None:
        return [*cells, "", ""]
    interval = line.difference
    return [*cells, f"{interval.mean:+.4f}", f"{interval.low:+.4f} to {interval.high:+.4f}"]


def _notes(compared: Sequence[ComparedLoss]) -> Iterator[str]:
    note = interval_note(compared)
    if note:
        yield note
    if all(line.difference is None for line in compared):
        yield f"No difference: it needs the `{BASELINE}` arm and another on the same seed."
