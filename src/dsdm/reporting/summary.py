"""What a run came to, in lines for a terminal."""

from collections.abc import Iterator, Sequence

from dsdm.evaluation.comparison import BASELINE, ComparedLoss
from dsdm.evaluation.multiplier import ArmMultiplier, trainings_text
from dsdm.reporting.measured import interval_note
from dsdm.reporting.screened import screened_selection
from dsdm.reporting.view import RunView

REPORT = "report.html"


def summary_lines(run: RunView) -> list[str]:
    """What was selected, where everything is, and what the comparison found."""
    lines = [*_selection_lines(run), *_place_lines(run)]
    for measured in run.measured:
        title = f"Loss on {measured.title}, in nats per target token (lower is better):"
        lines += ["", title, *comparison_lines(measured.lines)]
        if measured.multipliers:
            title = f"Compute that {BASELINE} needs for the same loss, over the arm's own:"
            lines += ["", title, *multiplier_lines(measured.multipliers)]
    return lines


def comparison_lines(compared: Sequence[ComparedLoss]) -> list[str]:
    """The comparison as a table, and what its intervals are over."""
    rows = [["target", "arm", "seeds", "nats", f"- {BASELINE}", "95% interval"]]
    for line in compared:
        cells = [line.target, line.arm, str(line.num_seeds), f"{line.loss_nats:.4f}", "", ""]
        if line.difference is not None:
            mean, low, high = line.difference.mean, line.difference.low, line.difference.high
            cells[4:] = [f"{mean:+.4f}", f"{low:+.4f} to {high:+.4f}"]
        rows.append(cells)
    note = interval_note(compared)
    return [
        *_table(rows),
        note or f"No difference: it needs the `{BASELINE}` arm and another on the same seed.",
    ]


def multiplier_lines(found: Sequence[ArmMultiplier]) -> list[str]:
    """How much more compute random needs, as a table."""
    rows = [["target", "arm", "gross", "95% interval", "net, FLOPs", "net, seconds", "pays after"]]
    for line in found:
        low, high, flops, seconds = (
            line.gross.low,
            line.gross.high,
            line.net_flops,
            line.net_seconds,
        )
        rows.append(
            [
                line.target,
                line.arm,
                line.gross.value.text(),
                f"{low.text()} to {high.text()}" if low and high else "",
                flops.multiplier.value.text() if flops else "",
                seconds.multiplier.value.text() if seconds else "",
                trainings_text(flops.trainings.value) if flops else "",
            ]
        )
    return _table(rows)


def _selection_lines(run: RunView) -> Iterator[str]:
    if run.selection is None:
        yield "selected  nothing yet"
        return
    counts = run.selection.counts
    share = counts["tokens"] / counts["pool_tokens"]
    yield (
        f"selected  {counts['candidates']:,} of {counts['pool_candidates']:,} candidates, "
        f"{counts['tokens']:,} of {counts['pool_tokens']:,} tokens ({share:.1%} of the pool)"
    )
    screened = screened_selection(run)
    if screened is not None:
        yield f"screened  {screened.text}"


def _place_lines(run: RunView) -> Iterator[str]:
    if run.manifest("dataset") is not None:
        yield f"dataset   {run.folder / 'dataset'}"
    if run.manifest("scores/all") is not None:
        yield f"scores    {run.scores_path}"
    report = run.folder / REPORT
    yield f"report    {report}" if report.exists() else f"report    dsdm report {run.folder}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
