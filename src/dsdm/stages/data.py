"""The stages that turn files into rows of tokens.

They are tokenizer, examples, duplicates, targets and overlap.
"""

from collections.abc import Iterator

from dsdm.config import as_dict
from dsdm.data.contents import model_fingerprint
from dsdm.graph import Artifact, Graph, fingerprints
from dsdm.stages.run import Run

MAKING = "dsdm.stages.making.data"


def tokenizer(graph: Graph) -> Iterator[Artifact]:
    """The tokenizer: the given one, or one trained on the pool."""
    run: Run = graph.run
    given, config = run.experiment.tokenizer, run.experiment.own_tokenizer
    inputs = {} if given.path is None else {"tokenizer files": run.contents[(given.path,)]}
    if given.path is None and config.path is not None:
        inputs = {"tokenizer files": model_fingerprint(config.path)}
    path = run.shared / "tokenizer"
    yield Artifact("tokenizer", path, config, inputs, f"{MAKING}:make_tokenizer", run)


def examples(graph: Graph) -> Iterator[Artifact]:
    """Packed rows of each piece of the pool."""
    run: Run = graph.run
    (tokenizer,) = graph["tokenizer"]
    pool = as_dict(run.experiment.pool)
    # Which files there are is the pieces', and how many records may be rejected changes none.
    del pool["files"], pool["max_rejected_share"]
    for number, part in enumerate(run.pool.pieces):
        piece = part.piece
        yield Artifact(
            "examples",
            part.examples,
            [pool, run.experiment.examples],
            {
                "pool file": part.content,
                "piece": f"{piece.number}: {piece.start}-{piece.end}",
                "tokenizer": tokenizer.fingerprint,
            },
            f"{MAKING}:pack",
            run,
            (number,),
        )


def duplicates(graph: Graph) -> Iterator[Artifact]:
    """Which documents are copies of earlier ones, over all pieces."""
    run: Run = graph.run
    yield Artifact(
        "duplicates",
        run.packed[0] / "duplicates",
        {},
        fingerprints(graph["examples"]),
        f"{MAKING}:merge_duplicates",
        run,
        remade="inputs",
    )


def targets(graph: Graph) -> Iterator[Artifact]:
    """The rows of each target, in three parts."""
    run: Run = graph.run
    (tokenizer,) = graph["tokenizer"]
    row_tokens = run.experiment.examples.row_tokens
    for number, target in enumerate(run.experiment.targets):
        # Weights decide the mix of directions, not what is in a target.
        settings = {key: value for key, value in as_dict(target).items() if key != "weight"}
        yield Artifact(
            "targets",
            run.shared / "targets" / target.name,
            {"target": settings, "row_tokens": row_tokens},
            {"tokenizer": tokenizer.fingerprint, "files": run.contents[target.places]},
            f"{MAKING}:encode_target",
            run,
            (number,),
        )


def overlap(graph: Graph) -> Iterator[Artifact]:
    """Which candidates of each piece share 13 words in a row with a target, and all of them."""
    run: Run = graph.run
    inputs = fingerprints([*graph["duplicates"], *graph["targets"]])
    root = run.packed[0] / "overlap"
    parts = [
        Artifact(
            "overlap",
            root / "pieces" / piece.folder,
            {},
            inputs,
            f"{MAKING}:find_overlap",
            run,
            (number,),
            remade="inputs",
        )
        for number, piece in enumerate(run.pool.pieces)
    ]
    yield from parts
    needed = fingerprints(parts)
    yield Artifact(
        "overlap", root / "all", {}, needed, f"{MAKING}:merge_overlap", run, remade="inputs"
    )


def usable_pool(graph: Graph) -> dict[str, str]:
    """What decides which candidates there are and which are dropped, as inputs of an artifact."""
    overlap = graph["overlap"][-1:] if graph.run.experiment.drop_overlap else []
    return fingerprints([*graph["duplicates"], *overlap])
