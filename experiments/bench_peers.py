"""Scoring side by side with other libraries: the same weights, tokens and parameters, one thread.

    python experiments/bench_peers.py [--repeats 7] [--trak-repeats 3] [--only ours bergson ...]

Each method runs in a process of its own, in its library's environment; environments that are
missing are installed first (see peers/environments.py). The processes take turns: in each repeat
every method runs once, so a machine whose speed drifts bends no ratio. Beside its time each method
has its memory, what it stores, and how its scores rank the candidates: against exact scores of what
it claims to compute, and against the exact derivative along the target's mean gradient.

TRAK with a dense projection takes minutes a batch and gigabytes, so it scores fewer candidates,
fewer times, after the others have ended, in turns with plain forwards and our forward scoring.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers.environments import NotInstalledError, make_environment
from peers.exact import all_exact
from peers.job import Size, write_jobs
from peers.process import FailedError, MethodProcess
from record import figure, has_bf16, ratio_figure, write_figures
from scipy.stats import spearmanr


@dataclass(frozen=True)
class Entry:
    """One row of the benchmark."""

    peer: str
    method: str
    precision: str
    claims: str | None
    """Which exact scores it claims to compute; None: it gives no scores."""

    @property
    def name(self) -> str:
        """Of its figures."""
        return f"{self.peer}.{self.method}.{PRECISIONS[self.precision]}"

    @property
    def job(self) -> str:
        """TRAK has its own candidates."""
        return "trak" if self.method == "trak" else "all"


PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
CLAIMS = {
    "ours": {"plain": None, "training": None, "forward": "slope", "backward": "slope"},
    "bergson": {"features": "slope", "score": "slope", "score_full": "slope", "trak": "trak"},
    "dattri": {"features": "slope", "trak": "trak"},
    "dattri-llm": {"features": "slope", "score": "slope"},
    "kronfluence": {"score": "ekfac"},
    "traker": {"trak": "trak"},
}
PEERS = [peer for peer in CLAIMS if peer != "ours"]
KINDS = ("score", "features", "trak")
"""What peers do, best for this job first."""
FP32_ALONE = {"dattri", "traker"}
"""They have no setting for bf16."""
ENTRIES = [
    Entry(peer, method, precision, claims)
    for peer, methods in CLAIMS.items()
    for method, claims in methods.items()
    for precision in PRECISIONS
    if precision == "float32" or (peer not in FP32_ALONE and method != "trak")
]
BESIDE_TRAK = ("plain", "forward")
"""Those of our methods that TRAK is measured against."""


@dataclass(frozen=True)
class Measured:
    """What came of an entry."""

    entry: Entry
    seconds: np.ndarray
    """For each row, in each repeat."""
    peak_bytes: int
    bytes_per_row: int
    scores: np.ndarray | None


def main() -> None:
    """Measures and writes `speed.cpu.*` figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--trak-repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=PEERS, choices=["ours", *PEERS])
    parser.add_argument(
        "--precisions", nargs="*", default=fast_precisions(), choices=list(PRECISIONS)
    )
    for field in dataclasses.fields(Size):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    repeats, trak_repeats = options.pop("repeats"), options.pop("trak_repeats")
    wanted = {"ours", *options.pop("only")}
    precisions = options.pop("precisions")
    entries = [e for e in ENTRIES if e.peer in wanted and e.precision in precisions]
    write_figures("peers", bench(entries, Size(**options), repeats, trak_repeats))


def fast_precisions() -> list[str]:
    """Those that the processor multiplies in; bf16 in software is slower than fp32."""
    return list(PRECISIONS) if has_bf16() else ["float32"]


def bench(
    entries: list[Entry], size: Size, repeats: int, trak_repeats: int
) -> list[dict[str, Any]]:
    """The figures of these entries, a row with the reason for each that failed."""
    quick = [entry for entry in entries if entry.job == "all"]
    slow = [entry for entry in entries if entry.job == "trak"]
    beside = [entry for entry in quick if entry.peer == "ours" and entry.method in BESIDE_TRAK]
    with tempfile.TemporaryDirectory(prefix="dsdm-peers-") as folder:
        jobs = write_jobs(Path(folder), size)
        exact = all_exact(jobs)
        measured, failed = _measure(quick, jobs, repeats)
        rows = [row for one in measured for row in _figures(one, measured, exact)]
        rows += _default_figures(measured, exact["slope"])
        rows += _best_figures(measured, [kind for kind in KINDS if kind != "trak"])
        if slow:
            measured, slow_failed = _measure([*beside, *slow], jobs, trak_repeats)
            traks = [one for one in measured if one.entry.job == "trak"]
            rows += [row for one in traks for row in _figures(one, measured, exact)]
            rows += _best_figures(measured, ["trak"])
            failed = slow_failed | failed
    for entry, reason in failed.items():
        rows.append(figure(f"speed.cpu.{entry.name}.failed", 1, reason[:200].replace("|", "/")))
    return rows


def _measure(
    entries: list[Entry], jobs: dict[str, Path], repeats: int
) -> tuple[list[Measured], dict[Entry, str]]:
    """What came of each entry, or why nothing came of it."""
    processes, failed = _start(entries, jobs)
    measured, failed_later = _take_turns(processes, repeats)
    return measured, failed | failed_later


def _start(
    entries: list[Entry], jobs: dict[str, Path]
) -> tuple[dict[Entry, MethodProcess], dict[Entry, str]]:
    processes, failed = {}, {}
    for entry in entries:
        try:
            python = None if entry.peer == "ours" else make_environment(entry.peer)
            folder = jobs[entry.job]
            processes[entry] = MethodProcess(
                entry.peer, entry.method, entry.precision, folder, python
            )
        except (NotInstalledError, FailedError) as error:
            failed[entry] = str(error)
    return processes, failed


def _take_turns(
    processes: dict[Entry, MethodProcess], repeats: int
) -> tuple[list[Measured], dict[Entry, str]]:
    """Every process once in each round; the first round warms up and does not count."""
    answers: dict[Entry, list[dict[str, Any]]] = {entry: [] for entry in processes}
    failed: dict[Entry, str] = {}
    for repeat in range(repeats + 1):
        for entry, process in processes.items():
            # Setting TRAK up has run all of its code, so it needs no warm-up.
            is_warm = repeat == 0 and entry.job == "trak"
            if entry in failed or is_warm:
                continue
            try:
                answer = process.run()
            except FailedError as error:
                failed[entry] = str(error)
                continue
            if repeat:
                answers[entry].append(answer)
        print(f"round {repeat} of {repeats}", flush=True)
    for process in processes.values():
        process.stop()
    return [_measured(entry, found) for entry, found in answers.items() if found], failed


def _measured(entry: Entry, answers: list[dict[str, Any]]) -> Measured:
    scores = answers[0]["scores"]
    return Measured(
        entry,
        np.array([answer["seconds_per_row"] for answer in answers]),
        max(answer["peak_bytes"] for answer in answers),
        answers[0]["bytes_per_row"],
        None if scores is None else np.array(scores),
    )


def _figures(
    one: Measured, measured: list[Measured], exact: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Of one entry: time against plain forwards and against ours, memory, rank correlations."""
    name = f"speed.cpu.{one.entry.name}"
    rows = [
        ratio_figure(f"{name}.over_two_{label}_forwards", one.seconds, 2 * plain.seconds)
        for precision, label in PRECISIONS.items()
        if (plain := _ours(measured, "plain", precision)) is not None
    ]
    forward = _ours(measured, "forward", one.entry.precision)
    if one.entry.peer != "ours" and forward is not None:
        rows.append(ratio_figure(f"{name}.ratio", one.seconds, forward.seconds))
    rows.append(figure(f"{name}.peak_mib", one.peak_bytes / 2**20, "MiB of anonymous memory"))
    rows.append(figure(f"{name}.bytes_per_row", one.bytes_per_row, "bytes stored for a candidate"))
    if one.scores is not None and one.entry.claims is not None:
        for wanted in dict.fromkeys((one.entry.claims, "slope")):
            right = exact[wanted][: len(one.scores)]
            correlation = float(spearmanr(one.scores, right).statistic)
            unit = f"Spearman with exact {wanted} scores of {len(right)} rows"
            rows.append(figure(f"{name}.{wanted}_rank_correlation", correlation, unit))
    return rows


def _default_figures(measured: list[Measured], slope: np.ndarray) -> list[dict[str, Any]]:
    """Our default against two forwards, each in its faster precision, and its rank correlation."""
    ours, plain = _fastest(measured, "ours", "forward"), _fastest(measured, "ours", "plain")
    if ours is None or ours.scores is None or plain is None:
        return []
    correlation = float(spearmanr(ours.scores, slope).statistic)
    unit = f"Spearman with the exact derivative of {len(slope)} rows"
    return [
        ratio_figure("speed.cpu.forward_over_two_forwards", ours.seconds, 2 * plain.seconds),
        figure("speed.cpu.forward_rank_correlation", correlation, unit),
    ]


def _best_figures(measured: list[Measured], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Our default's rows a second over those of the fastest that each peer has of these kinds.

    The one without a kind is of what the peer does best for this job.
    """
    ours = _fastest(measured, "ours", "forward")
    if ours is None:
        return []
    rows = []
    for peer in PEERS:
        found = {kind: _fastest(measured, peer, kind) for kind in kinds}
        first = next(kind for kind in KINDS if kind in CLAIMS[peer])
        for kind, best in found.items():
            if best is not None:
                names = [f"{peer}.{kind}", *([peer] if kind == first else [])]
                rows += [
                    ratio_figure(f"speed.cpu.{n}.ratio", best.seconds, ours.seconds) for n in names
                ]
    return rows


def _ours(measured: list[Measured], method: str, precision: str) -> Measured | None:
    wanted = ("ours", method, precision)
    found = (one for one in measured if astuple(one.entry)[:3] == wanted)
    return next(found, None)


def _fastest(measured: list[Measured], peer: str, method: str) -> Measured | None:
    """In whichever precision."""
    found = [one for one in measured if (one.entry.peer, one.entry.method) == (peer, method)]
    return min(found, key=lambda one: float(np.median(one.seconds)), default=None)


if __name__ == "__main__":
    main()
