"""The stage that puts candidates into groups of like topics: scores are shrunk to their means."""

from collections.abc import Iterator

from dsdm.datamodel.config import shrinkage_of
from dsdm.graph import Artifact, Graph, fingerprints
from dsdm.stages.run import Run

MAKING = "dsdm.stages.making.topics"
GROUPS = "groups"


def topics(graph: Graph) -> Iterator[Artifact]:
    """What tells groups apart, and for each piece the group of each candidate.

    Nothing where no scores are shrunk towards the means of groups.
    """
    run: Run = graph.run
    if not shrinkages(run):
        return
    pool = fingerprints(graph["duplicates"])
    folder = run.shared / "topics" / GROUPS
    groups = Artifact("topics", folder, {}, pool, f"{MAKING}:fit_groups", run, key=GROUPS)
    yield groups
    yield from sorted_pieces(graph, groups)


def sorted_pieces(graph: Graph, groups: Artifact) -> Iterator[Artifact]:
    """For each piece the group of each candidate."""
    run: Run = graph.run
    pool = fingerprints(graph["duplicates"])
    for number, piece in enumerate(run.pool.pieces):
        yield Artifact(
            "topics",
            run.packed[0] / "topics" / piece.folder,
            {},
            pool | fingerprints([groups]),
            f"{MAKING}:sort_candidates",
            run,
            (number,),
        )


def shrinkages(run: Run) -> dict[str, float]:
    """By estimator, how far scores are shrunk towards the means of their groups, where they are."""
    experiment = run.experiment
    found = {name: shrinkage_of(experiment.scores, name) for name in experiment.estimators}
    return {name: shrinkage for name, shrinkage in found.items() if shrinkage}
