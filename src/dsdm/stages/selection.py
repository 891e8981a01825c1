"""The stages that choose and write: the selection, the dataset, and copies of finished parts."""

from collections.abc import Callable, Iterator

from dsdm.data.share import Part
from dsdm.graph import Artifact, Graph, fingerprints
from dsdm.stages.baselines import ranking_of
from dsdm.stages.run import Run
from dsdm.stages.scores import MERGED

MAKING = "dsdm.stages.making.selection"
SELECTION = "selection.parquet"


def selection(graph: Graph) -> Iterator[Artifact]:
    """The candidates that are kept."""
    run: Run = graph.run
    experiment = run.experiment
    yield Artifact(
        "selection",
        run.folder / "selection",
        {"selection": experiment.selection, "estimator": experiment.selecting_estimator},
        fingerprints([ranking_of(graph, run, experiment.selecting_estimator)]),
        f"{MAKING}:write_selection",
        run,
        (experiment.selection,),
        remade="inputs",
    )


def dataset(graph: Graph) -> Iterator[Artifact]:
    """The selected documents or rows, ready to train on."""
    run: Run = graph.run
    yield Artifact(
        "dataset",
        run.folder / "dataset",
        run.experiment.export,
        fingerprints(graph["selection"]),
        f"{MAKING}:write_dataset",
        run,
        (run.folder / "selection",),
        remade="inputs",
    )


PARTS: dict[Part, Callable[[Graph], list[Artifact]]] = {
    "tokenizer": lambda graph: graph["tokenizer"],
    "proxies": lambda graph: [one for one in graph["proxies"] if one.run is graph.run],
    "directions": lambda graph: [one for one in graph["directions"] if one.run is graph.run],
    "scores": lambda graph: [
        one for one in graph["scores"] if one.run is graph.run and one.key == MERGED
    ],
    "selection": lambda graph: graph["selection"],
    "dataset": lambda graph: graph["dataset"],
}


def shared(graph: Graph) -> Iterator[Artifact]:
    """One copy for each part, in an object store; the folder says that it was made."""
    run: Run = graph.run
    share = run.experiment.share
    for part in share.parts if share.to is not None else ():
        copied = PARTS[part](graph)
        yield Artifact(
            "shared",
            run.folder / "shared" / part,
            {"to": share.to},
            fingerprints(copied),
            f"{MAKING}:upload",
            run,
            (tuple(one.path for one in copied),),
            remade="inputs",
        )
