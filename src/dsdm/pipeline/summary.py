"""What a run came to, in lines for a terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dsdm.artifacts import load_manifest
from dsdm.evaluation.comparison import BASELINE, ComparedLoss
from dsdm.evaluation.multiplier import ArmMultiplier, trainings_text
from dsdm.pipeline.measured import measured_parts
from dsdm.pipeline.screened import screened_selection
from dsdm.report.parts import HELDOUT
from dsdm.stages.run import Run
from dsdm.stages.scores_table import SCORES

REPORT = "report.html"


def summary_lines(run: Run) -> list[str]:
    """What was selected, where everything is, and what the comparison found."""
    lines = [*_selection_lines(run), *_place_lines(run.folder)]
    for measured in measured_parts(run.folder, run.experiment):
        lines += comparison_lines(measured.lines, measured.part)
        lines += multiplier_lines(measured.multipliers)
    return lines


def comparison_lines(compared: Sequence[ComparedLoss], part: str) -> list[str]:
    """The comparison as a table; nothing where no evaluation is finished."""
    if not compared:
        return []
    header = ["target", "arm", "seeds", "nats", f"- {BASELINE}", "95% interval"]
    table = _table([header, *(_cells(line) for line in compared)])
    what = "other tasks" if part == HELDOUT else f"the targets' {part} part"
    title = f"Loss on {what}, in nats per target token (lower is better):"
    return ["", title, *table, *_notes(compared)]


def multiplier_lines(found: Sequence[ArmMultiplier]) -> list[str]:
    """How much more compute random needs; nothing where its curve was not measured."""
    if not found:
        return []
    header = ["target", "arm", "gross", "95% interval", "net, FLOPs", "net, seconds", "pays after"]
    title = f"Compute that {BASELINE} needs for the same loss, over the arm's own:"
    return ["", title, *_table([header, *map(_multiplier_cells, found)])]


def interval_note(compared: Sequence[ComparedLoss]) -> str:
    """What the intervals of a comparison are over; empty where it has none."""
    over = {line.over for line in compared if line.difference is not None}
    if not over:
        return ""
    paired = "Intervals: paired t over the seeds that both arms have."
    if over == {"seeds"}:
        return paired
    one_seed = (
        "paired bootstrap over the examples, for one seed. They leave out how much another seed "
        "would change: set compare.seeds to 2 or more for that."
    )
    if over == {"examples"}:
        return f"Intervals: {one_seed}"
    return f"{paired} Where that is one seed: {one_seed}"


def _selection_lines(run: Run) -> Iterator[str]:
    manifest = load_manifest(run.folder / "selection")
    if manifest is None:
        yield "selected  nothing yet"
        return
    counts = manifest.counts
    share = counts["tokens"] / counts["pool_tokens"]
    yield (
        f"selected  {counts['candidates']:,} of {counts['pool_candidates']:,} candidates, "
        f"{counts['tokens']:,} of {counts['pool_tokens']:,} tokens ({share:.1%} of the pool)"
    )
    screened = screened_selection(run.folder, run.experiment)
    if screened is not None:
        yield f"screened  {screened.text}"


def _place_lines(folder: Path) -> Iterator[str]:
    if load_manifest(folder / "dataset") is not None:
        yield f"dataset   {folder / 'dataset'}"
    if load_manifest(folder / "scores" / "all") is not None:
        yield f"scores    {folder / 'scores' / 'all' / SCORES}"
    report = folder / REPORT
    yield f"report    {report}" if report.exists() else f"report    dsdm report {folder}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _multiplier_cells(line: ArmMultiplier) -> list[str]:
    gross, nets = line.gross, (line.net_flops, line.net_seconds)
    has_interval = gross.low is not None and gross.high is not None
    interval = f"{gross.low.text()} to {gross.high.text()}" if has_interval else ""  # type: ignore[union-attr]
    trainings = trainings_text(nets[0].trainings.value) if nets[0] else ""
    return [
        line.target,
        line.arm,
        gross.value.text(),
        interval,
        *(net.multiplier.value.text() if net else "" for net in nets),
        trainings,
    ]


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
