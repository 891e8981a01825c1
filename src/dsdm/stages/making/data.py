"""Makes the tokenizer, the packed pool, the targets' rows and the overlap between them."""

from collections.abc import Iterator

import msgspec
import numpy as np

from dsdm.artifacts import Draft
from dsdm.data import duplicates, packing
from dsdm.data import tokenizer as tokenizers
from dsdm.data.documents import read_sample
from dsdm.data.overlap import PieceOverlap, TargetGrams, merge_overlaps, overlap_of
from dsdm.data.tasks import read_target_texts, write_target
from dsdm.errors import ModelError
from dsdm.progress import progress
from dsdm.stages.pool import read_pool
from dsdm.stages.run import OVERLAP, Run

PART = "overlap.npz"
"""File of a piece's overlap with each target."""


def make_tokenizer(run: Run, draft: Draft) -> None:
    """Trains the tokenizer on the pool, or copies the one that is given."""
    config = run.experiment.own_tokenizer
    files = list(dict.fromkeys(piece.piece.file for piece in run.pool.pieces))
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
    """Packs one piece of the pool."""
    experiment, part = run.experiment, run.pool.pieces[number]
    rejected = part.examples.with_name(f"rejected-{part.folder}.jsonl")
    rejected.unlink(missing_ok=True)
    with progress(f"examples/{part.folder}", None, "bytes") as advance:
        counts = packing.pack(
            part.piece,
            experiment.pool,
            experiment.examples,
            run.tokenizer,
            draft.path,
            advance,
            rejected_path=rejected,
        )
    draft.counts.update(msgspec.to_builtins(counts))


def merge_duplicates(run: Run, draft: Draft) -> None:
    """Finds the documents that are copies of earlier ones, in this pool or the run's own."""
    pieces = run.pool.pieces
    against = []
    if run.is_later:
        own = read_pool(run.experiment.pool, run.shared, reads_files=False)
        folders = [piece.examples for piece in own.pieces]
        against = [(folders, duplicates.load_duplicates(run.shared / "duplicates"))]
    with progress("duplicates", len(pieces), "pieces") as advance:
        counts = duplicates.find_duplicates(
            [piece.examples for piece in pieces],
            run.experiment.examples.unit,
            run.experiment.pool.max_rejected_share,
            draft.path,
            against=against,
            rejected_path=run.packed[0] / "examples" / "rejected.jsonl",
            advance=advance,
        )
    draft.counts.update(msgspec.to_builtins(counts))


def encode_target(run: Run, draft: Draft, number: int) -> None:
    """Writes the rows of one target."""
    experiment = run.experiment
    target = experiment.targets[number]
    row_tokens = experiment.examples.row_tokens
    draft.counts.update(write_target(target, run.tokenizer, row_tokens, draft.path))


def find_overlap(run: Run, draft: Draft, number: int) -> None:
    """Writes which candidates of a piece share words with a target."""
    examples, shard = run.examples, run.examples.shards[number]

    def texts() -> Iterator[tuple[int, str]]:
        for candidate in range(shard.num_candidates):
            yield candidate, examples.text_of(shard.first_candidate + candidate, run.tokenizer)
            advance(1)

    with progress(f"overlap/{number:05d}", shard.num_candidates, "candidates") as advance:
        overlap_of(texts(), target_grams(run)).save(draft.path / PART)


def merge_overlap(run: Run, draft: Draft) -> None:
    """Writes which candidates of the pool share words with a target, and counts them."""
    folder = run.packed[0] / "overlap" / "pieces"
    parts = (
        (shard.first_candidate, PieceOverlap.load(folder / piece.folder / PART))
        for piece, shard in zip(run.pool.pieces, run.examples.shards, strict=True)
    )
    found = merge_overlaps(parts, target_grams(run))
    for name, overlap in found.items():
        draft.counts[name] = {
            "examples": overlap.num_examples,
            "overlapping": overlap.num_overlapping,
            "candidates": len(overlap.candidates),
        }
    every = [overlap.candidates for overlap in found.values()]
    np.save(draft.path / OVERLAP, np.unique(np.concatenate(every)))


def target_grams(run: Run) -> TargetGrams:
    """The words in a row of all targets' examples."""

    def texts(name: str) -> Iterator[str]:
        folder = run.shared / "targets" / name
        for context, answer in read_target_texts(folder, ("fit", "tune", "report")):
            yield context + answer

    return TargetGrams.of_texts({t.name: texts(t.name) for t in run.experiment.targets})
