"""The stage that puts candidates into groups of like topics: scores are drawn to their means."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from jaxtyping import Int

from dsdm.artifacts import Draft
from dsdm.data.examples import Examples
from dsdm.datamodel.config import shrinkage_of
from dsdm.pipeline.data_stages import examples_work, first_examples_work
from dsdm.pipeline.run import Run
from dsdm.pipeline.work import Work, fingerprints, progress

STAGE = "topics"
GROUP = "group.npy"
"""File of a shard: the group of each candidate."""
AT_ONCE = 4096
"""Candidates whose tokens are held together."""


def groups_work(run: Run) -> Iterator[Work]:
    """What tells groups apart; nothing where no scores are drawn towards their means."""
    if shrinkages(run):
        inputs = fingerprints(list(first_examples_work(run)))
        path = run.data_folder / STAGE / "groups"
        yield Work(STAGE, path, {}, inputs, partial(_fit, run))


def topics_work(run: Run) -> Iterator[Work]:
    """For each shard of examples, the group of each candidate."""
    for groups in groups_work(run):
        for shard, examples in zip(run.shards, examples_work(run), strict=True):
            path = run.data_folder / STAGE / shard.name
            inputs = fingerprints([examples, groups])
            yield Work(STAGE, path, {}, inputs, partial(_sort, run, shard.number))


def shrinkages(run: Run) -> dict[str, float]:
    """By estimator, how far scores are drawn towards the means of their groups, where they are."""
    experiment = run.experiment
    all_of_them = {m: shrinkage_of(experiment.scores, m) for m in experiment.estimators}
    return {method: shrinkage for method, shrinkage in all_of_them.items() if shrinkage}


def group_of_candidate(run: Run) -> Int[np.ndarray, " candidates"]:
    """The group of each candidate of the pool."""
    folders = [run.data_folder / STAGE / shard.name for shard in run.shards]
    return np.concatenate([np.load(folder / GROUP) for folder in folders])


def _fit(run: Run, draft: Draft) -> None:
    from dsdm.datamodel.topics import MOST_TEXTS, fit_groups

    num_first = run.num_first_candidates
    # The same for every seed of an experiment, which shares the pool.
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.choice(num_first, min(num_first, MOST_TEXTS), replace=False))
    groups = fit_groups(*_words(run.examples, drawn), seed=0)
    groups.save(draft.path)
    draft.counts.update(candidates=len(drawn), groups=len(groups))


def _sort(run: Run, number: int, draft: Draft) -> None:
    from dsdm.datamodel.topics import load_groups

    groups = load_groups(run.data_folder / STAGE / "groups")
    examples, shard = run.examples, run.examples.shards[number]
    end = shard.first_candidate + shard.num_candidates
    found = [np.zeros(0, np.int16)]
    with progress(f"{STAGE}/{number:05d}", shard.num_candidates, "candidates") as advance:
        for start in range(shard.first_candidate, end, AT_ONCE):
            candidates = np.arange(start, min(start + AT_ONCE, end))
            found.append(groups.of(*_words(examples, candidates)))
            advance(len(candidates))
    np.save(draft.path / GROUP, np.concatenate(found))


def _words(examples: Examples, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The first tokens of some candidates, as `Topics.of` takes them."""
    from dsdm.datamodel.topics import MOST_TOKENS

    tokens = [examples.tokens_of(int(candidate))[:MOST_TOKENS] for candidate in candidates]
    owner = np.repeat(np.arange(len(tokens), dtype=np.int32), [len(one) for one in tokens])
    return owner, np.concatenate(tokens).astype(np.int32), len(tokens)
