"""The stage that puts candidates into groups of like topics: scores are drawn to their means."""

from collections.abc import Iterator

from dsdm.datamodel.config import shrinkage_of
from dsdm.graph import Artifact, Graph, fingerprints
from dsdm.stages.run import Run

MAKING = "dsdm.stages.making.topics"
GROUPS = "groups"


def topics(graph: Graph) -> Iterator[Artifact]:
    """What tells groups apart, and for each shard of examples the group of each candidate.

    Nothing where no scores are shrunk towards the means of groups.
    """
    run: Run = graph.run
    if not shrinkages(run):
        return
    examples = graph["examples"]
    folder = run.shared / "topics" / GROUPS
    groups = Artifact(
        "topics", folder, {}, fingerprints(examples), f"{MAKING}:fit_groups", run, key=GROUPS
    )
    yield groups
    for shard, packed in zip(run.pool.shards, examples, strict=True):
        yield Artifact(
            "topics",
            run.packed / "topics" / shard.folder,
            {},
            fingerprints([packed, groups]),
            f"{MAKING}:sort_candidates",
            run,
            (shard.number,),
        )


def shrinkages(run: Run) -> dict[str, float]:
    """By estimator, how far scores are shrunk towards the means of their groups, where they are."""
    experiment = run.experiment
    found = {name: shrinkage_of(experiment.scores, name) for name in experiment.estimators}
    return {name: shrinkage for name, shrinkage in found.items() if shrinkage}
