"""Scores by baselines, trains target models on the rows of each arm, and measures them."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from dsdm.artifacts import Draft, load_manifest, write_json
from dsdm.baselines import (
    BASELINES,
    BaselineInputs,
    ProxyCheckpoint,
    baseline_settings,
    reads_proxies,
)
from dsdm.data.sequences import Rows, Subset
from dsdm.data.tasks import PARTS, Part, load_target, read_target_texts, write_target
from dsdm.datamodel.columns import ScoreColumn
from dsdm.errors import NumericalError
from dsdm.evaluation.accuracy import task_results
from dsdm.evaluation.arms import Arm
from dsdm.evaluation.losses import target_losses
from dsdm.evaluation.pool_slice import bits_per_byte, held_out_candidates, predicted_bytes
from dsdm.evaluation.rows import ArmPool, training_rows
from dsdm.lm.config import TrainConfig
from dsdm.lm.model import load_saved
from dsdm.progress import progress
from dsdm.selection import Scores
from dsdm.selection.score_files import load_scores
from dsdm.stages.baselines import baseline_folder
from dsdm.stages.compare import LOSSES, ROWS
from dsdm.stages.making.models import derived_seed, train_model
from dsdm.stages.making.selection import (
    near_duplicates,
    run_scores,
    scores_path,
    target_scores,
)
from dsdm.stages.run import Run
from dsdm.stages.scores_table import SCORES, write_candidate_scores

EVALUATION_TOKENS = 16384
"""Tokens in one forward pass, padding included."""


def check_baselines(run: Run) -> None:
    """Raises ModelError where a baseline that an arm is made by needs a package that is missing."""
    for arm in run.experiment.compared_arms:
        found = BASELINES.get(arm.method)
        folder = run.folder / "baselines" / baseline_folder(arm.method, arm.target)
        if found is not None and load_manifest(folder) is None:
            found.check(baseline_settings(run.experiment.baselines, arm.method))


def score_by_baseline(run: Run, draft: Draft, name: str, weights: dict[str, float]) -> None:
    """Writes a baseline's scores of every candidate."""

    def count_flops(flops: float) -> None:
        draft.flops += flops

    baselines = run.experiment.baselines
    with progress(f"baselines/{name}", None, "candidates") as advance:
        inputs = baseline_inputs(
            run,
            weights,
            with_checkpoints=reads_proxies(baselines, name),
            fingerprint=draft.fingerprint,
            advance=advance,
            count_flops=count_flops,
        )
        scores = BASELINES[name].score(inputs, baseline_settings(baselines, name))
    scores.require_finite()
    write_candidate_scores(run.examples, {ScoreColumn(name): scores.values}, draft.path / SCORES)
    draft.counts["candidates"] = len(scores.values)


def baseline_inputs(
    run: Run,
    weights: dict[str, float],
    *,
    with_checkpoints: bool = False,
    fingerprint: str = "",
    advance: Callable[[int], None] = lambda count: None,
    count_flops: Callable[[float], None] = lambda flops: None,
) -> BaselineInputs:
    """What baselines read of a run, with the targets that `weights` names."""
    examples, experiment = run.examples, run.experiment
    tables = [examples.candidates_table(shard).select(["source"]) for shard in examples.shards]
    sources = pa.concat_tables(tables)["source"].combine_chunks().dictionary_encode()
    rows, checkpoints = run.targets("fit"), []
    if with_checkpoints:
        checkpoints = [
            ProxyCheckpoint(partial(run.checkpoint, i), run.checkpoint_folder(i), weight)
            for i, weight in enumerate(run.checkpoint_weights.tolist())
        ]
    return BaselineInputs(
        texts=partial(_texts, run),
        targets={name: _target_texts(run, name) for name in weights},
        weights=weights,
        num_tokens=examples.candidate_tokens,
        sources=sources.indices.to_numpy().astype(np.int32),
        source_names=tuple(sources.dictionary.to_pylist()),
        rows=examples,
        candidate_of_row=examples.candidate_of_row,
        proxies=[partial(run.proxy, i) for i in range(experiment.proxies.count)],
        checkpoints=checkpoints,
        seed=experiment.seed,
        fingerprint=fingerprint,
        target_rows={name: rows[name] for name in weights},
        advance=advance,
        count_flops=count_flops,
    )


def _texts(run: Run) -> Iterator[str]:
    for candidate in range(run.examples.num_candidates):
        yield run.examples.text_of(candidate, run.tokenizer)


def _target_texts(run: Run, name: str) -> list[str]:
    texts = read_target_texts(run.shared / "targets" / name, ("fit",))
    return [context + answer for context, answer in texts]


def encode_heldout(run: Run, draft: Draft, number: int) -> None:
    """Writes the rows of a task that nothing is selected for."""
    task, row_tokens = run.compare.heldout[number], run.experiment.examples.row_tokens
    draft.counts.update(write_target(task, run.tokenizer, row_tokens, draft.path))


def train_arm(run: Run, draft: Draft, arm: Arm, seed: int, config: TrainConfig) -> None:
    """Trains a target model on the rows of an arm."""
    # The same initial weights and random rows for every arm of a seed, so that arms are paired.
    replicate, seed = run.replicate(seed), derived_seed(run.experiment.seed, "model", seed)
    order = training_order(replicate, arm, seed)
    train_model(run, run.compare.model or run.experiment.model, config, order, seed, draft)
    rows = np.unique(order)
    np.save(draft.path / ROWS, rows)
    draft.counts["distinct_rows"] = len(rows)


def tune(run: Run, draft: Draft, arm: Arm, seed: int, config: TrainConfig) -> None:
    """Trains as `train_arm` does, and keeps the losses on the tune part in place of the weights."""
    try:
        train_arm(run, draft, arm, seed, config)
    except NumericalError:  # a rate that is too high is not the best one
        write_json(draft.path / LOSSES, {})
        return
    losses = part_losses(run, "tune", draft.path)
    write_json(draft.path / LOSSES, {name: float(loss.mean()) for name, loss in losses.items()})
    for weights in draft.path.glob("*.safetensors"):
        weights.unlink()


def training_order(run: Run, arm: Arm, seed: int) -> np.ndarray:
    """The rows that an arm is trained on, in order.

    Args:
        run: With the scores to rank by.
        arm: What to train on.
        seed: Draws random's rows and the order.
    """
    experiment, examples = run.experiment, run.examples
    pool = ArmPool(
        examples.lengths,
        examples.candidate_of_row,
        allowed_candidates(run),
        counts_rows=experiment.pool.format == "conversations",
    )
    scores = None if arm.kind in ("random", "all") else arm_scores(run, arm)
    selection = experiment.selection
    guard = near_duplicates(run, selection)
    return training_rows(arm, pool, selection, run.compare.epochs, seed, scores, guard)


def allowed_candidates(run: Run) -> np.ndarray:
    """Which candidates of the whole pool an arm may be trained on, bool, shape (candidates,)."""
    allowed = np.ones(run.examples.num_candidates, bool)
    allowed[run.dropped] = False
    allowed[held_out(run)] = False
    return allowed


def held_out(run: Run) -> np.ndarray:
    """Sorted candidates that no arm is trained on."""
    count = run.compare.pool_slice
    if not count:
        return np.zeros(0, np.int64)
    examples = run.examples
    return held_out_candidates(examples.candidate_of_row, examples.num_candidates, count, seed=0)


def arm_scores(run: Run, arm: Arm) -> Scores:
    """The scores that an arm ranks by, or that its control is like."""
    if arm.target is None:
        return run_scores(run, arm.method or run.experiment.selecting_estimator)
    if arm.method in BASELINES:
        path = scores_path(run, arm.method, arm.target)
        return load_scores([path], str(ScoreColumn(arm.method)))
    return target_scores(run, arm.method, arm.target)


def part_losses(run: Run, part: Part, model: Path) -> dict[str, np.ndarray]:
    """The loss of each example of one part of every target, in nats a target token."""
    return _losses(run, model, run.targets(part))


def measure_part(run: Run, draft: Draft, model: Path, part: Part) -> None:
    """Writes a model's losses on one part of the targets."""
    _write_losses(part_losses(run, part, model), draft)


def measure_heldout(run: Run, draft: Draft, model: Path) -> None:
    """Writes a model's losses on all parts of the tasks that nothing is selected for."""
    folders = {task.name: run.shared / "heldout" / task.name for task in run.compare.heldout}
    by_part = [
        _losses(run, model, {name: load_target(path, part) for name, path in folders.items()})
        for part in PARTS
    ]
    losses = {name: np.concatenate([one[name] for one in by_part]) for name in folders}
    _write_losses(losses, draft)


def measure_accuracy(run: Run, draft: Draft, model: Path) -> None:
    """Writes a model's accuracies on lm-evaluation-harness tasks."""
    compare, tokenizer = run.compare, run.shared / "tokenizer"
    trained = load_saved(model, run.device)
    results = task_results(trained, tokenizer, compare.lm_eval, limit=compare.lm_eval_limit)
    write_json(draft.path / "results.json", results)
    draft.counts["results"] = results


def measure_pool_slice(run: Run, draft: Draft, model: Path) -> None:
    """Writes a model's bits a byte on candidates that no arm was trained on."""
    examples = run.examples
    slice_rows = np.flatnonzero(np.isin(examples.candidate_of_row, held_out(run)))
    rows = Subset(examples, slice_rows)
    num_bytes = predicted_bytes(rows, run.tokenizer)
    trained = load_saved(model, run.device)
    bits = bits_per_byte(trained, rows, num_bytes, batch_tokens=EVALUATION_TOKENS)
    write_json(draft.path / "results.json", {"bits_per_byte": bits})
    draft.counts.update(bits_per_byte=bits, bytes=int(num_bytes.sum()))


def _losses(run: Run, model: Path, rows: Mapping[str, Rows]) -> dict[str, np.ndarray]:
    return target_losses(load_saved(model, run.device), rows, batch_tokens=EVALUATION_TOKENS)


def _write_losses(losses: Mapping[str, np.ndarray], draft: Draft) -> None:
    for name, values in losses.items():
        np.save(draft.path / f"{name}.npy", values)
    means = {name: float(values.mean()) for name, values in losses.items()}
    write_json(draft.path / LOSSES, means)
    draft.counts["loss"] = means
