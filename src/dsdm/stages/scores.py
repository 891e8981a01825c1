"""The stages that score candidates: what is learned to screen them by, and the scores."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dsdm.datamodel.config import ScreeningConfig, scored_targets, scores_forward
from dsdm.graph import Artifact, Graph, fingerprints
from dsdm.stages.data import usable_pool
from dsdm.stages.models import directions_of
from dsdm.stages.run import Run
from dsdm.stages.topics import shrinkages

MAKING = "dsdm.stages.making.scores"
MERGED = "all"
"""Folder of the scores of every piece and estimator in one table."""
SAMPLE = "sample.npz"
"""File of a screening: the rows of its sample, their exact scores and what the rest predicted."""
CUT = "screening.json"


@dataclass(frozen=True)
class Sample:
    """Candidates that were drawn at random and scored exactly, whatever is predicted of them."""

    rows: np.ndarray
    """Sorted numbers of their rows, shape (rows,)."""
    exact: Float[np.ndarray, "rows checkpoints"]
    """The rows' scores."""
    scores: Float[np.ndarray, " candidates"]
    """The candidates' own."""
    predicted: Float[np.ndarray, " candidates"]
    """What tables of the other candidates predict of them."""
    cut: float
    """Candidates that are predicted to score as much or more are scored exactly."""


def load_sample(folder: Path) -> Sample:
    """What a finished screening has drawn."""
    cut: float = json.loads((folder / CUT).read_text(encoding="utf-8"))["cut"]
    with np.load(folder / SAMPLE) as arrays:
        rows, exact, scores, predicted = (
            arrays[name] for name in ("rows", "exact", "scores", "predicted")
        )
    return Sample(rows, exact, scores, predicted, cut)


def pool_sizes(graph: Graph) -> tuple[int, int]:
    """Candidates and tokens of the packed pool; 0 before it is packed."""
    counts = Counter[str]()
    for one in graph["duplicates"]:
        counts.update({name: n for name, n in one.counts().items() if isinstance(n, int)})
    unit = "rows" if graph.run.experiment.examples.unit == "row" else "documents"
    return counts[unit], counts["tokens"]


def screening_of(graph: Graph) -> ScreeningConfig | None:
    """What part of the pool is scored exactly; None: all of it."""
    run: Run = graph.run
    return run.experiment.screening(*pool_sizes(graph))


def screening(graph: Graph) -> Iterator[Artifact]:
    """For each estimator, what its scores are predicted by; nothing where all are computed."""
    config = screening_of(graph)
    if config is None:
        return
    for run in graph.run.replicates:
        for estimator in run.experiment.estimators:
            yield Artifact(
                "screening",
                run.models / "screening" / estimator,
                config,
                fingerprints(directions_of(graph, run, estimator)),
                f"{MAKING}:screen",
                run,
                (estimator, config),
                needs_model=True,
            )


def scores(graph: Graph, means: dict[str, str] | None = None) -> Iterator[Artifact]:
    """For each estimator one file of scores a piece, and all of them in one table.

    Args:
        graph: The run's.
        means: What gives the means of groups, as an input of the table; None: its own scores.
    """
    for run in graph.run.replicates:
        parts = list(_pieces(graph, run))
        yield from parts
        if parts:
            yield _merged(graph, run, parts, means or {})


def merged_of(graph: Graph, run: Run) -> Artifact:
    """The table of all scores of a run or replicate."""
    (found,) = [one for one in graph["scores"] if one.run is run and one.key == MERGED]
    return found


def _pieces(graph: Graph, run: Run) -> Iterator[Artifact]:
    screened = [one for one in graph["screening"] if one.path.parent == run.models / "screening"]
    wanted = scored_targets([t.name for t in run.experiment.targets], run.experiment.scores)
    # A forward pass serves one direction, a backward pass those of every estimator.
    is_shared = not scores_forward(run.experiment.scores, len(wanted))
    for estimator in run.experiment.estimators:
        needed = directions_of(graph, run, estimator)
        needed += [one for one in screened if one.path.name == estimator]
        needed += graph["duplicates"]
        inputs = fingerprints(needed)
        for number, piece in enumerate(run.pool.pieces):
            folder = run.folder / "scores"
            group = f"{folder / piece.folder}"
            if not is_shared:
                group = f"{folder / estimator / piece.folder}"
            yield Artifact(
                "scores",
                folder / estimator / piece.folder,
                {},
                inputs,
                f"{MAKING}:score",
                run,
                (number, bool(screened)),
                key=estimator,
                together=group,
                needs_model=True,
            )


def _merged(graph: Graph, run: Run, parts: list[Artifact], means: dict[str, str]) -> Artifact:
    inputs = fingerprints([*parts, *graph["topics"]]) | means
    # Scores are shrunk in seconds, so by how much decides the table and not the pieces.
    by_estimator = shrinkages(run)
    inputs["shrinkage"] = str(by_estimator)
    inputs["group means from"] = run.experiment.scores.group_means_from
    if by_estimator:
        inputs |= usable_pool(graph)
    return Artifact(
        "scores",
        run.folder / "scores" / MERGED,
        {},
        inputs,
        f"{MAKING}:merge",
        run,
        key=MERGED,
        remade="inputs",
    )
