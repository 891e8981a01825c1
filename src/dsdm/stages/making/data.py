"""Makes the tokenizer, the packed pool, the targets' rows and the overlap between them."""

from collections.abc import Iterator

import numpy as np

from dsdm.artifacts import Draft
from dsdm.data import tokenizer as tokenizers
from dsdm.data.documents import read_sample
from dsdm.data.overlap import count_overlap
from dsdm.data.packing import pack_file
from dsdm.data.tasks import read_target_texts, write_target
from dsdm.errors import ModelError
from dsdm.progress import progress
from dsdm.stages.run import Run


def make_tokenizer(run: Run, draft: Draft) -> None:
    """Trains the tokenizer on the pool, or copies the one that is given."""
    config = run.experiment.own_tokenizer
    files = [shard.file for shard in run.pool.shards]
    sample = read_sample(files, run.experiment.pool, config.sample_bytes)
    texts = (document.text for document in sample if document.text is not None)
    try:
        tokenizer = tokenizers.make_tokenizer(config, texts)
    except ModelError as error:
        if run.experiment.tokenizer.path == config.path:
            raise
        raise ModelError(
            f"model {config.path}: cannot be made: it brings no tokenizer ({error}) Correct "
            "`model.path`, or name the model's tokenizer in `tokenizer.path`."
        ) from error
    tokenizer.save(draft.path)
    draft.counts["vocab_size"] = tokenizer.vocab_size


def pack(run: Run, draft: Draft, number: int) -> None:
    """Packs one file of the pool."""
    experiment, shards = run.experiment, run.pool.shards
    earlier = [run.packed / "examples" / shard.folder for shard in shards[:number]]
    file = shards[number].file
    pack_file(file, experiment.pool, experiment.examples, run.tokenizer, earlier, draft)


def encode_target(run: Run, draft: Draft, number: int) -> None:
    """Writes the rows of one target."""
    experiment = run.experiment
    target = experiment.targets[number]
    write_target(target, run.tokenizer, experiment.examples.row_tokens, draft)


def find_overlap(run: Run, draft: Draft) -> None:
    """Writes which candidates share words with a target, and counts them for each target."""
    examples = run.examples

    def pool_texts() -> Iterator[tuple[int, str]]:
        for candidate in range(examples.num_candidates):
            yield candidate, examples.text_of(candidate, run.tokenizer)
            advance(1)

    def target_texts(name: str) -> Iterator[str]:
        folder = run.shared / "targets" / name
        for context, answer in read_target_texts(folder, ("fit", "tune", "report")):
            yield context + answer

    with progress("overlap", examples.num_candidates, "candidates") as advance:
        names = [target.name for target in run.experiment.targets]
        found = count_overlap({name: target_texts(name) for name in names}, pool_texts())
    for name, overlap in found.items():
        draft.counts[name] = {
            "examples": overlap.num_examples,
            "overlapping": overlap.num_overlapping,
            "candidates": len(overlap.candidates),
        }
    every = [overlap.candidates for overlap in found.values()]
    np.save(draft.path / "candidates.npy", np.unique(np.concatenate(every)))
