"""The stages that show what a selection is worth: target models and their losses."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from dsdm.artifacts import Draft, write_json
from dsdm.evaluation.arms import Arm, CompareConfig, cut_to_tokens, parse_arm
from dsdm.lm.config import training_content
from dsdm.pipeline.data_stages import examples_work, targets_work, tokenizer_work
from dsdm.pipeline.model_stages import (
    derived_seed,
    target_rows,
    train_model,
    usable_rows,
)
from dsdm.pipeline.run import Run
from dsdm.pipeline.select_stages import merged_scores_work, refusal, run_scores
from dsdm.pipeline.work import Work, fingerprints
from dsdm.selection import select


def compared_arms(run: Run) -> list[Arm]:
    """The arms of the run's comparison, none where it has no comparison."""
    experiment = run.experiment
    return [
        parse_arm(name, experiment.selecting_method, experiment.directions.estimators)
        for name in (experiment.compare.arms if experiment.compare else ())
    ]


def models_work(run: Run) -> Iterator[Work]:
    """One target model for each arm and seed; all arms of a seed before the next."""
    for seed in range(run.experiment.compare.seeds if run.experiment.compare else 0):
        for arm in compared_arms(run):
            yield _model_work(run, arm, seed)


def evaluations_work(run: Run) -> Iterator[Work]:
    """The losses of each target model on each part that is looked at."""
    targets = fingerprints(list(targets_work(run)))
    for model in models_work(run):
        for part in run.compare.parts:
            path = run.folder / "evaluations" / part / model.path.name
            inputs = fingerprints([model]) | targets
            make = partial(_evaluate, run, part, model.path)
            yield Work("evaluations", path, {"part": part}, inputs, make)


def _model_work(run: Run, arm: Arm, seed: int) -> Work:
    compare, experiment = run.compare, run.experiment
    is_random = arm.kind in ("random", "repeated")
    read = [*tokenizer_work(run), *examples_work(run)]
    inputs = fingerprints(read if is_random else [*read, *merged_scores_work(run)])
    config = {
        "kind": arm.kind,
        "method": arm.method,
        "selection": experiment.selection,
        "epochs": compare.epochs,
        "model": compare.model or experiment.model,
        "train": training_content(compare.train),
        "seed": [experiment.seed, seed],
    }
    path = run.folder / "models" / f"{arm.name}-{seed}"
    return Work("models", path, config, inputs, partial(_train, run, arm, seed))


def _train(run: Run, arm: Arm, seed: int, draft: Draft) -> None:
    compare = run.compare
    # The same initial weights and random rows for every arm of a seed, so that arms are paired.
    seed = derived_seed(run.experiment.seed, "model", seed)
    order = training_order(run, arm, compare, seed)
    train_model(run, compare.model or run.experiment.model, compare.train, order, seed, draft)
    draft.counts["distinct_rows"] = len(np.unique(order))


def training_order(run: Run, arm: Arm, compare: CompareConfig, seed: int) -> np.ndarray:
    """The rows that an arm is trained on, in order; every arm has as many tokens, but for a row."""
    from dsdm.lm.train import epoch_order

    budget = int(compare.epochs * _selected_tokens(run))
    if arm.kind == "random":
        rows = np.random.default_rng(seed).permutation(usable_rows(run))
        # Fresh rows while the pool lasts.
        passes = max(1.0, 1.001 * budget / max(1, run.examples.lengths[rows].sum()))
        order = epoch_order(rows, passes, seed)
    else:
        rows = _rows_of(run, _candidates(run, arm, seed))
        passes = 1.5 * budget / run.examples.lengths[rows].sum()
        order = epoch_order(rows, passes, seed)
    return cut_to_tokens(order, run.examples.lengths, budget)


def _candidates(run: Run, arm: Arm, seed: int) -> np.ndarray:
    config, method = run.experiment.selection, arm.method or run.experiment.selecting_method
    scores = run_scores(run, method)
    if arm.kind == "repeated":
        values = np.random.default_rng(seed).random(len(scores.values))
        scores = dataclasses.replace(scores, values=values)
    refuse = refusal(run, config, near_duplicates=arm.kind == "top")
    return select(scores, config, bottom=arm.kind == "bottom", is_near_duplicate=refuse)


def _rows_of(run: Run, candidates: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.isin(run.examples.candidate_of_row, candidates))


def _selected_tokens(run: Run) -> int:
    selection = run.experiment.selection
    total = run.examples.num_tokens
    if selection.tokens is not None:
        return int(selection.tokens)
    if selection.fraction is not None:
        return int(selection.fraction * total)
    assert selection.candidates is not None
    return int(selection.candidates * total / run.examples.num_candidates)


def _evaluate(run: Run, part: str, model: Path, draft: Draft) -> None:
    from dsdm.evaluation.evaluate import example_losses
    from dsdm.lm.model import load_saved

    trained = load_saved(model, run.device)
    losses = {}
    for name, rows in target_rows(run, part).items():  # type: ignore[arg-type]
        values = example_losses(trained, rows, batch_tokens=16384)
        np.save(draft.path / f"{name}.npy", values)
        losses[name] = float(values.mean())
    write_json(draft.path / "losses.json", losses)
    draft.counts["loss"] = losses
