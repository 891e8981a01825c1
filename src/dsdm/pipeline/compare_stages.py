"""The stages that train target models, to show what a selection is worth."""

import dataclasses
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from dsdm.artifacts import Draft, check_contents, load_manifest, write_json
from dsdm.baselines.config import BASELINE_NAMES
from dsdm.errors import NumericalError
from dsdm.evaluation.arms import Arm
from dsdm.lm.config import TrainConfig, training_content
from dsdm.pipeline.baseline_stages import baseline_work
from dsdm.pipeline.data_stages import examples_work, targets_work, tokenizer_work
from dsdm.pipeline.losses import part_losses
from dsdm.pipeline.model_stages import derived_seed, train_model
from dsdm.pipeline.run import Run
from dsdm.pipeline.select_stages import merged_scores_work
from dsdm.pipeline.training_rows import training_order
from dsdm.pipeline.work import Work, fingerprints

CANDIDATES = "candidates.npy"
LOSSES = "losses.json"


def tuning_work(run: Run) -> Iterator[Work]:
    """One training of each arm at each learning rate, judged on the tune part."""
    rates = run.experiment.compare.learning_rates if run.experiment.compare else ()
    targets = fingerprints(list(targets_work(run)))
    for rate in rates:
        for arm in run.experiment.compared_arms:
            train = _at_rate(run, rate)
            trained = _training(run, arm, 0, train)
            yield dataclasses.replace(
                trained,
                stage="tuning",
                path=run.compare_folder / "tuning" / f"{arm.name}-{rate:g}",
                inputs=dict(trained.inputs) | targets,
                make=partial(_tune, run, arm, train),
            )


def models_work(run: Run) -> Iterator[Work]:
    """One target model for each arm and seed; all arms of a seed before the next."""
    for seed in range(run.experiment.compare.seeds if run.experiment.compare else 0):
        for arm in run.experiment.compared_arms:
            yield _training(run, arm, seed, _at_rate(run, tuned_rate(run, arm)))


def tuned_rate(run: Run, arm: Arm) -> float:
    """The learning rate at which the arm did best on the tune part, as far as it was tried.

    By the mean of the targets that are selected for.
    """
    losses = {}
    for rate in run.compare.learning_rates:
        folder = run.compare_folder / "tuning" / f"{arm.name}-{rate:g}"
        if load_manifest(folder) is not None:
            losses[rate] = _tuned_loss(run, _load_losses(folder))
    return min(losses, key=losses.__getitem__) if losses else run.experiment.compared_training.lr


def _tuned_loss(run: Run, losses: dict[str, float]) -> float:
    """The mean over the targets that are selected for; infinite where the training diverged."""
    chosen_for = [t.name for t in run.experiment.targets if t.weight > 0]
    return sum(losses.get(name, math.inf) for name in chosen_for) / len(chosen_for)


def _load_losses(folder: Path) -> dict[str, float]:
    try:
        losses: dict[str, float] = json.loads((folder / LOSSES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        check_contents(folder)  # says what is wrong
        raise
    return losses


def _at_rate(run: Run, rate: float) -> TrainConfig:
    train: TrainConfig = msgspec.structs.replace(run.experiment.compared_training, lr=rate)
    return train


def _training(run: Run, arm: Arm, seed: int, train: TrainConfig) -> Work:
    compare, experiment = run.compare, run.experiment
    config = {
        "arm": {name: value for name, value in vars(arm).items() if name != "name"},
        "selection": experiment.selection,
        "epochs": compare.epochs,
        "pool_slice": compare.pool_slice,
        "model": compare.model or experiment.model,
        "train": training_content(train),
        "seed": [experiment.seed, seed],
    }
    path = run.compare_folder / "models" / f"{arm.name}-{seed}"
    inputs = fingerprints([*_ranking(run.replicate(seed), arm), *examples_work(run)])
    inputs |= fingerprints(list(tokenizer_work(run)))
    inputs |= run.base_files(compare.model or experiment.model)
    return Work("models", path, config, inputs, partial(_train, run, arm, seed, train))


def _ranking(run: Run, arm: Arm) -> list[Work]:
    """What an arm's choice of rows is read from, besides the pool."""
    if arm.kind in ("random", "repeated", "all"):
        return []
    if arm.method in BASELINE_NAMES:
        return [baseline_work(run, arm.method, arm.target)]
    return list(merged_scores_work(run))


def _train(run: Run, arm: Arm, seed: int, train: TrainConfig, draft: Draft) -> None:
    # The same initial weights and random rows for every arm of a seed, so that arms are paired.
    replicate, seed = run.replicate(seed), derived_seed(run.experiment.seed, "model", seed)
    order = training_order(replicate, arm, seed)
    train_model(run, run.compare.model or run.experiment.model, train, order, seed, draft)
    rows = np.unique(order)
    np.save(draft.path / CANDIDATES, np.unique(run.examples.candidate_of_row[rows]))
    draft.counts["distinct_rows"] = len(rows)


def _tune(run: Run, arm: Arm, train: TrainConfig, draft: Draft) -> None:
    try:
        _train(run, arm, 0, train, draft)
    except NumericalError:  # a rate that is too high is not the best one
        write_json(draft.path / LOSSES, {})
        return
    losses = part_losses(run, "tune", draft.path)
    write_json(draft.path / LOSSES, {name: float(loss.mean()) for name, loss in losses.items()})
    _forget_weights(draft.path)


def _forget_weights(folder: Path) -> None:
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
