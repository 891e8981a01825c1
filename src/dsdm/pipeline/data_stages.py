"""The stages that turn files into rows of tokens: tokenizer, examples, targets, overlap."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from dsdm.artifacts import Draft
from dsdm.config import as_dict
from dsdm.data.contents import model_fingerprint
from dsdm.data.documents import read_sample
from dsdm.data.overlap import count_overlap
from dsdm.data.packing import pack_file
from dsdm.data.tasks import TargetConfig, read_target_texts, write_target
from dsdm.data.tokenizer import make_tokenizer
from dsdm.errors import ModelError
from dsdm.pipeline.run import PoolShard, Run
from dsdm.pipeline.work import Advance, Work, fingerprints, progress


def tokenizer_work(run: Run) -> Iterator[Work]:
    """The tokenizer: the given one, or one trained on the pool."""
    path = run.data_folder / "tokenizer"
    given, config = run.experiment.tokenizer, run.experiment.own_tokenizer
    inputs = {} if given.path is None else {"tokenizer files": run.contents[(given.path,)]}
    if given.path is None and config.path is not None:
        inputs = {"tokenizer files": model_fingerprint(config.path)}
    yield Work("tokenizer", path, config, inputs, partial(_make_tokenizer, run))


def examples_work(run: Run) -> Iterator[Work]:
    """One shard of packed rows for each file of the pool."""
    (tokenizer,) = tokenizer_work(run)
    for shard in run.shards:
        inputs = {"pool file": shard.content, "tokenizer": tokenizer.fingerprint}
        config = [_content(run), run.experiment.examples]
        path = run.data_folder / "examples" / shard.name
        make = partial(_pack, run, shard)
        yield Work("examples", path, config, inputs, make, follows_siblings=True)


def first_examples_work(run: Run) -> Iterator[Work]:
    """Those shards that were in the pool when the run began (`PoolShard.is_first`)."""
    for shard, work in zip(run.shards, examples_work(run), strict=True):
        if shard.is_first:
            yield work


def targets_work(run: Run) -> Iterator[Work]:
    """The rows of each target, in three parts."""
    (tokenizer,) = tokenizer_work(run)
    row_tokens = run.experiment.examples.row_tokens
    for target in run.experiment.targets:
        config = {"target": _without_weight(target), "row_tokens": row_tokens}
        path = run.data_folder / "targets" / target.name
        inputs = {"tokenizer": tokenizer.fingerprint, "files": run.contents[target.places]}
        yield Work("targets", path, config, inputs, partial(_write_target, run, target))


def overlap_work(run: Run) -> Iterator[Work]:
    """Which pool documents and target examples share 13 words in a row."""
    inputs = fingerprints([*examples_work(run), *targets_work(run)])
    yield Work(
        "overlap",
        run.data_folder / "overlap",
        {},
        inputs,
        partial(_count_overlap, run),
        follows_inputs=True,
    )


def dropped_inputs(run: Run) -> dict[str, str]:
    """What decides which candidates are dropped, as inputs of a work; none where none are."""
    return fingerprints(list(overlap_work(run))) if run.experiment.drop_overlap else {}


def _make_tokenizer(run: Run, draft: Draft) -> None:
    config = run.experiment.own_tokenizer
    first = [shard.file for shard in run.shards if shard.is_first]
    sample = read_sample(first, run.experiment.pool, config.sample_bytes)
    try:
        tokenizer = make_tokenizer(config, (d.text for d in sample if d.text is not None))
    except ModelError as error:
        if run.experiment.tokenizer.path == config.path:
            raise
        raise ModelError(
            f"model {config.path}: cannot be made: it brings no tokenizer ({error}) Correct "
            "`model.path`, or name the model's tokenizer in `tokenizer.path`."
        ) from error
    tokenizer.save(draft.path)
    draft.counts["vocab_size"] = tokenizer.vocab_size


def _pack(run: Run, shard: PoolShard, draft: Draft) -> None:
    experiment = run.experiment
    earlier = [run.data_folder / "examples" / other.name for other in run.shards[: shard.number]]
    pack_file(shard.file, experiment.pool, experiment.examples, run.tokenizer, earlier, draft)


def _write_target(run: Run, target: TargetConfig, draft: Draft) -> None:
    write_target(target, run.tokenizer, run.experiment.examples.row_tokens, draft)


def _count_overlap(run: Run, draft: Draft) -> None:
    with progress("overlap", run.examples.num_candidates, "candidates") as advance:
        found = count_overlap(
            {target.name: _target_texts(run, target) for target in run.experiment.targets},
            _pool_texts(run, advance),
        )
    for name, overlap in found.items():
        draft.counts[name] = {
            "examples": overlap.num_examples,
            "overlapping": overlap.num_overlapping,
            "candidates": len(overlap.candidates),
        }
    every = [overlap.candidates for overlap in found.values()]
    np.save(draft.path / "candidates.npy", np.unique(np.concatenate(every)))


def _pool_texts(run: Run, advance: Advance) -> Iterator[tuple[int, str]]:
    for candidate in range(run.examples.num_candidates):
        yield candidate, run.examples.text_of(candidate, run.tokenizer)
        advance(1)


def _target_texts(run: Run, target: TargetConfig) -> Iterator[str]:
    folder = run.data_folder / "targets" / target.name
    for context, answer in read_target_texts(folder, ("fit", "tune", "report")):
        yield context + answer


def _content(run: Run) -> dict[str, object]:
    """The pool's settings that decide what is in a shard: all but the list of files."""
    return {key: value for key, value in as_dict(run.experiment.pool).items() if key != "files"}


def _without_weight(target: TargetConfig) -> dict[str, object]:
    return {key: value for key, value in as_dict(target).items() if key != "weight"}
