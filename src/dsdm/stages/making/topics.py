"""Makes groups of candidates about the same topics."""

import numpy as np
from jaxtyping import Int

from dsdm.artifacts import Draft
from dsdm.data.examples import Examples
from dsdm.learners import topics
from dsdm.progress import progress
from dsdm.stages.run import Run

GROUP = "group.npy"
"""File of a piece: the group of each candidate."""
AT_ONCE = 4096
"""Candidates whose tokens are held together."""


def fit_groups(run: Run, draft: Draft) -> None:
    """Learns what tells groups apart from a sample of the pool."""
    count = run.examples.num_candidates
    # The same for every seed of an experiment, which shares the pool.
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.choice(count, min(count, topics.MOST_TEXTS), replace=False))
    groups = topics.fit_groups(*_first_tokens(run.examples, drawn), seed=0)
    groups.save(draft.path)
    draft.counts.update(candidates=len(drawn), groups=len(groups))


def sort_candidates(run: Run, draft: Draft, number: int) -> None:
    """Writes the group of each candidate of a piece."""
    groups = topics.load_groups(run.shared / "topics" / "groups")
    examples, shard = run.examples, run.examples.shards[number]
    end = shard.first_candidate + shard.num_candidates
    found = [np.zeros(0, np.int16)]
    with progress(f"topics/{number:05d}", shard.num_candidates, "candidates") as advance:
        for start in range(shard.first_candidate, end, AT_ONCE):
            candidates = np.arange(start, min(start + AT_ONCE, end))
            found.append(groups.of(*_first_tokens(examples, candidates)))
            advance(len(candidates))
    np.save(draft.path / GROUP, np.concatenate(found))


def group_of_candidate(run: Run) -> Int[np.ndarray, " candidates"]:
    """The group of each candidate of the pool."""
    folders = [piece.root / "topics" / piece.folder for piece in run.pieces]
    return np.concatenate([np.load(folder / GROUP) for folder in folders])


def _first_tokens(examples: Examples, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The first tokens of some candidates, as `Topics.of` takes them."""
    tokens = [examples.tokens_of(int(one))[: topics.MOST_TOKENS] for one in candidates]
    owner = np.repeat(np.arange(len(tokens), dtype=np.int32), [len(one) for one in tokens])
    return owner, np.concatenate(tokens).astype(np.int32), len(tokens)
