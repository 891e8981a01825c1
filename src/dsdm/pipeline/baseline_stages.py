"""The stage that scores the pool with the baselines that a comparison names."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from dsdm.artifacts import Draft
from dsdm.baselines import Question, baseline_scores, settings_of
from dsdm.baselines.config import BASELINE_NAMES, uses_proxies
from dsdm.data.tasks import read_target_texts
from dsdm.pipeline.data_stages import examples_work, targets_work
from dsdm.pipeline.model_stages import proxies_work
from dsdm.pipeline.run import Run
from dsdm.pipeline.scores_table import SCORES, write_candidate_scores
from dsdm.pipeline.work import Advance, Work, fingerprints, progress


def baselines_work(run: Run) -> Iterator[Work]:
    """One file of scores for each baseline that an arm is made by."""
    for name, target in _named(run):
        yield baseline_work(run, name, target)


def check_baselines(run: Run) -> None:
    """Raises ModelError where a baseline that is to be made needs a package that is missing."""
    from dsdm.baselines.embeddings import Embedding, check_installed

    for name, target in _named(run):
        settings = settings_of(name, run.experiment.baselines)
        if (
            isinstance(settings, Embedding)
            and baseline_work(run, name, target).state()[0] != "done"
        ):
            check_installed(settings)


def _named(run: Run) -> list[tuple[str, str | None]]:
    """Each baseline that an arm is made by, with the target that it is made for alone."""
    named = {(arm.method, arm.target) for arm in run.experiment.compared_arms}
    return sorted((pair for pair in named if pair[0] in BASELINE_NAMES), key=str)


def baseline_work(run: Run, name: str, target: str | None = None) -> Work:
    """The scores of one baseline, for the targets' mix or for one of them alone."""
    # A target without weight is in no mix.
    mix = {t.name: t.weight for t in run.experiment.targets if t.weight > 0}
    weights = mix if target is None else {target: 1.0}
    settings = settings_of(name, run.experiment.baselines)
    config = {
        "baseline": name,
        "settings": settings,
        "seed": run.experiment.seed,
        "weights": weights,
    }
    needed = [*examples_work(run), *targets_work(run)]
    if uses_proxies(name, run.experiment.baselines):
        needed += proxies_work(run)
    path = run.folder / "baselines" / (name if target is None else f"{name}:{target}")
    make = partial(_score, run, name, weights)
    return Work("baselines", path, config, fingerprints(needed), make)


def _score(run: Run, name: str, weights: dict[str, float], draft: Draft) -> None:
    with progress(f"baselines/{name}", None, "candidates") as advance:
        question = _question(run, weights, draft, advance)
        scores = baseline_scores(name, question, run.experiment.baselines)
    scores.require_finite()
    write_candidate_scores(run.examples, {name: scores.values}, draft.path / SCORES)
    draft.counts["candidates"] = len(scores.values)


def _question(run: Run, weights: dict[str, float], draft: Draft, advance: Advance) -> Question:
    def count_flops(flops: float) -> None:
        draft.flops += flops

    examples, experiment = run.examples, run.experiment
    tables = [examples.candidates_table(shard).select(["source"]) for shard in examples.shards]
    sources = pa.concat_tables(tables)["source"].combine_chunks().dictionary_encode()
    return Question(
        texts=partial(_texts, run),
        targets={name: _target_texts(run, name) for name in weights},
        weights=weights,
        num_tokens=examples.candidate_tokens,
        sources=sources.indices.to_numpy().astype(np.int32),
        source_names=tuple(sources.dictionary.to_pylist()),
        rows=examples,
        candidate_of_row=examples.candidate_of_row,
        proxies=[partial(run.proxy, i) for i in range(experiment.proxies.count)],
        seed=experiment.seed,
        fingerprint=draft.fingerprint,
        target_rows={name: run.target(name, "fit") for name in weights},
        advance=advance,
        count_flops=count_flops,
    )


def _texts(run: Run) -> Iterator[str]:
    for candidate in range(run.examples.num_candidates):
        yield run.examples.text_of(candidate, run.tokenizer)


def _target_texts(run: Run, name: str) -> list[str]:
    texts = read_target_texts(run.data_folder / "targets" / name, ("fit",))
    return [context + answer for context, answer in texts]
