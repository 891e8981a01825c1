"""The stages that turn files into rows of tokens: tokenizer, examples, targets, overlap."""

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
    """One shard of packed rows for each file of the pool."""
    run: Run = graph.run
    (tokenizer,) = graph["tokenizer"]
    pool = as_dict(run.experiment.pool)
    del pool["files"]
    for shard in run.pool.shards:
        yield Artifact(
            "examples",
            run.packed / "examples" / shard.folder,
            [pool, run.experiment.examples],
            {"pool file": shard.content, "tokenizer": tokenizer.fingerprint},
            f"{MAKING}:pack",
            run,
            (shard.number,),
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
    """Which pool documents and target examples share 13 words in a row."""
    run: Run = graph.run
    inputs = fingerprints([*graph["examples"], *graph["targets"]])
    path = run.packed / "overlap"
    make = f"{MAKING}:find_overlap"
    yield Artifact("overlap", path, {}, inputs, make, run, remade="inputs")


def usable_pool(graph: Graph) -> dict[str, str]:
    """What decides which candidates there are and which are dropped, as inputs of an artifact."""
    needed = [*graph["examples"], *(graph["overlap"] if graph.run.experiment.drop_overlap else ())]
    return fingerprints(needed)
