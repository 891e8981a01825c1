"""The stages that train and measure target models, to show what a selection is worth."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from dsdm.artifacts import check_contents, load_manifest
from dsdm.evaluation.arms import Arm
from dsdm.graph import Artifact, Graph, fingerprints
from dsdm.lm.config import TrainConfig, training_content
from dsdm.stages.baselines import ranking_of
from dsdm.stages.run import Run, evaluation_folder

MAKING = "dsdm.stages.making.compare"
LOSSES = "losses.json"
ROWS = "rows.npy"
"""File of a target model: the distinct rows of the pool that it was trained on, sorted."""


def heldout(graph: Graph) -> Iterator[Artifact]:
    """The rows of each task that nothing is selected for."""
    run: Run = graph.run
    compare = run.experiment.compare
    row_tokens = run.experiment.examples.row_tokens
    for number, task in enumerate(compare.heldout if compare else ()):
        yield Artifact(
            "heldout",
            run.shared / "heldout" / task.name,
            {"task": task, "row_tokens": row_tokens},
            fingerprints(graph["tokenizer"]) | {"files": run.contents[task.places]},
            f"{MAKING}:encode_heldout",
            run,
            (number,),
        )


def tuning(graph: Graph) -> Iterator[Artifact]:
    """One training of each arm at each learning rate, judged on the tune part."""
    run: Run = graph.run
    compare = run.experiment.compare
    for rate in compare.learning_rates if compare else ():
        for arm in run.experiment.compared_arms:
            yield _training(graph, arm, 0, rate, "tuning")


def models(graph: Graph) -> Iterator[Artifact]:
    """One target model for each arm and seed; all arms of a seed before the next."""
    run: Run = graph.run
    compare = run.experiment.compare
    for seed in range(compare.seeds if compare else 0):
        for arm in run.experiment.compared_arms:
            yield _training(graph, arm, seed, tuned_rate(run, arm), "models")


def evaluations(graph: Graph) -> Iterator[Artifact]:
    """What is measured of each target model, each kind in its own folder."""
    run: Run = graph.run
    compare = run.experiment.compare
    if compare is None:
        return
    targets = fingerprints(graph["targets"])
    for part in compare.parts:
        yield from _each_model(graph, part, {"part": part}, targets, "measure_part", (part,))
    if "report" not in compare.parts:
        return
    if compare.heldout:
        tasks = fingerprints(graph["heldout"])
        yield from _each_model(graph, "heldout", {}, tasks, "measure_heldout")
    if compare.lm_eval:
        settings = {"tasks": compare.lm_eval, "limit": compare.lm_eval_limit}
        yield from _each_model(graph, "lm_eval", settings, {}, "measure_accuracy")
    if compare.pool_slice:
        yield from _each_model(graph, "pool", {}, {}, "measure_pool_slice")


def tuned_rate(run: Run, arm: Arm) -> float:
    """The learning rate at which the arm did best on the tune part, as far as it was tried.

    By the mean of the targets that are selected for.
    """
    losses = {}
    chosen_for = [t.name for t in run.experiment.targets if t.weight > 0]
    for rate in run.compare.learning_rates:
        folder = run.compare_folder / "tuning" / f"{arm.name}-{rate:g}"
        if load_manifest(folder) is not None:
            found = _load_losses(folder)
            # A training that diverged has no losses.
            losses[rate] = sum(found.get(t, math.inf) for t in chosen_for) / len(chosen_for)
    return min(losses, key=losses.__getitem__) if losses else run.experiment.compared_training.lr


def _load_losses(folder: Path) -> dict[str, float]:
    try:
        losses: dict[str, float] = json.loads((folder / LOSSES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        check_contents(folder)  # says what is wrong
        raise
    return losses


def _training(graph: Graph, arm: Arm, seed: int, rate: float, stage: str) -> Artifact:
    run: Run = graph.run
    compare, experiment = run.compare, run.experiment
    train: TrainConfig = msgspec.structs.replace(experiment.compared_training, lr=rate)
    is_tuning = stage == "tuning"
    settings = {
        "arm": {name: value for name, value in vars(arm).items() if name != "name"},
        "selection": experiment.selection,
        "epochs": compare.epochs,
        "pool_slice": compare.pool_slice,
        "model": compare.model or experiment.model,
        "train": training_content(train),
        "seed": [experiment.seed, seed],
    }
    needed = [*_ranking(graph, run.replicate(seed), arm), *graph["duplicates"], *graph["tokenizer"]]
    needed += graph["targets"] if is_tuning else []
    inputs = fingerprints(needed) | run.base_files(compare.model or experiment.model)
    return Artifact(
        stage,
        run.compare_folder / stage / f"{arm.name}-{f'{rate:g}' if is_tuning else seed}",
        settings,
        inputs,
        f"{MAKING}:{'tune' if is_tuning else 'train_arm'}",
        run,
        (arm, seed, train),
        needs_model=True,
    )


def _ranking(graph: Graph, run: Run, arm: Arm) -> list[Artifact]:
    """What an arm's choice of rows is read from, besides the pool."""
    if arm.kind in ("random", "repeated", "all"):
        return []
    return [ranking_of(graph, run, arm.method, arm.target)]


def _each_model(
    graph: Graph,
    kind: str,
    settings: object,
    inputs: Mapping[str, str],
    measure: str,
    arguments: tuple[object, ...] = (),
) -> Iterator[Artifact]:
    run: Run = graph.run
    for model in graph["models"]:
        yield Artifact(
            "evaluations",
            evaluation_folder(run.compare_folder, kind, model.path.name),
            settings,
            fingerprints([model]) | dict(inputs),
            f"{MAKING}:{measure}",
            run,
            (model.path, *arguments),
            needs_model=True,
        )
