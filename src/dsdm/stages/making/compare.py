"""Scores by baselines, trains target models on the rows of each arm, and measures them."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from dsdm.artifacts import Draft, load_manifest, write_json
from dsdm.baselines import BaselineInputs, baseline_scores, settings_of
from dsdm.baselines.config import BASELINE_NAMES, uses_proxies
from dsdm.baselines.controls import best_source, source_matched
from dsdm.baselines.embeddings import Embedding, check_installed
from dsdm.baselines.inputs import ProxyCheckpoint
from dsdm.baselines.random import random_scores
from dsdm.data.sequences import Rows, Subset
from dsdm.data.tasks import PARTS, Part, load_target, read_target_texts, write_target
from dsdm.datamodel.columns import ScoreColumn
from dsdm.errors import NumericalError
from dsdm.evaluation.accuracy import task_results
from dsdm.evaluation.arms import Arm, cut_to_tokens, only_budget, scaled_selection
from dsdm.evaluation.evaluate import example_losses
from dsdm.evaluation.pool_slice import bits_per_byte, held_out_candidates, predicted_bytes
from dsdm.lm.config import TrainConfig
from dsdm.lm.model import load_saved
from dsdm.lm.train import epoch_order
from dsdm.progress import progress
from dsdm.selection import Scores, SelectionConfig, select
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
        settings = settings_of(arm.method, run.experiment.baselines)
        folder = run.folder / "baselines" / baseline_folder(arm.method, arm.target)
        if isinstance(settings, Embedding) and load_manifest(folder) is None:
            check_installed(settings)


def score_by_baseline(run: Run, draft: Draft, name: str, weights: dict[str, float]) -> None:
    """Writes a baseline's scores of every candidate."""
    with progress(f"baselines/{name}", None, "candidates") as advance:

        def count_flops(flops: float) -> None:
            draft.flops += flops

        examples, experiment = run.examples, run.experiment
        tables = [examples.candidates_table(shard).select(["source"]) for shard in examples.shards]
        sources = pa.concat_tables(tables)["source"].combine_chunks().dictionary_encode()
        rows = run.targets("fit")
        inputs = BaselineInputs(
            texts=partial(_texts, run),
            targets={name: _target_texts(run, name) for name in weights},
            weights=weights,
            num_tokens=examples.candidate_tokens,
            sources=sources.indices.to_numpy().astype(np.int32),
            source_names=tuple(sources.dictionary.to_pylist()),
            rows=examples,
            candidate_of_row=examples.candidate_of_row,
            proxies=[partial(run.proxy, i) for i in range(experiment.proxies.count)],
            checkpoints=[
                ProxyCheckpoint(partial(run.checkpoint, i), run.checkpoint_folder(i), weight)
                for i, weight in enumerate(run.checkpoint_weights.tolist())
            ]
            if uses_proxies(name, experiment.baselines)
            else [],
            seed=experiment.seed,
            fingerprint=draft.fingerprint,
            target_rows={name: rows[name] for name in weights},
            advance=advance,
            count_flops=count_flops,
        )
        scores = baseline_scores(name, inputs, experiment.baselines)
    scores.require_finite()
    write_candidate_scores(examples, {ScoreColumn(name): scores.values}, draft.path / SCORES)
    draft.counts["candidates"] = len(scores.values)


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
    """The rows that an arm is trained on, in order; every arm has as many tokens, but for a row.

    As many conversations, where so many of them are selected: people count them, and completions
    differ in length by more than arms should. `all` has as many epochs.

    Args:
        run: With the scores to rank by.
        arm: What to train on.
        seed: Draws random's rows and the order.
    """
    compare, lengths = run.compare, _sizes(run)
    budget = int(compare.epochs * arm.budget * _selected_size(run))
    if arm.kind in ("random", "all"):
        kept = np.flatnonzero(allowed_candidates(run)[run.examples.candidate_of_row])
        if arm.kind == "all":
            return epoch_order(kept, arm.budget * (arm.epochs or compare.epochs), seed)
        rows = np.random.default_rng(seed).permutation(kept)
        # Fresh rows while the pool lasts.
        passes = float(np.ceil(max(1.0, budget / max(1, lengths[rows].sum()))))
    else:
        rows = np.flatnonzero(np.isin(run.examples.candidate_of_row, _chosen(run, arm, seed)))
        passes = 1.5 * budget / lengths[rows].sum()
    return cut_to_tokens(epoch_order(rows, passes, seed), lengths, budget)


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
    if arm.method in BASELINE_NAMES:
        path = scores_path(run, arm.method, arm.target)
        return load_scores([path], str(ScoreColumn(arm.method)))
    return target_scores(run, arm.method, arm.target)


def _chosen(run: Run, arm: Arm, seed: int) -> np.ndarray:
    """The candidates that a `top`, `bottom`, repeated or control arm repeats."""
    more = arm.times_selected(run.compare.epochs)
    selection = scaled_selection(run.experiment.selection, more)
    scores = arm_scores(run, arm)
    if arm.kind in ("top", "bottom"):
        is_bottom = arm.kind == "bottom"
        return _select(run, scores, selection, is_top=not is_bottom, bottom=is_bottom)
    if arm.kind == "source-matched":
        chosen = _select(run, scores, selection, is_top=True)
        scores = source_matched(scores, chosen, seed, allowed_candidates(run))
    elif arm.kind == "best-source":
        wanted = int(more * _selected_tokens(run))
        scores = best_source(scores, wanted, seed, allowed_candidates(run))
    elif arm.kind == "repeated":
        scores = random_scores(
            scores.num_tokens, scores.sources, scores.source_names, seed, scores.fingerprint
        )
    # Controls are random draws: the budget applies, caps and noise don't.
    return _select(run, scores, only_budget(selection), is_top=False)


def _select(
    run: Run, scores: Scores, config: SelectionConfig, *, is_top: bool, bottom: bool = False
) -> np.ndarray:
    refused = np.union1d(run.dropped, held_out(run))
    guard = near_duplicates(run, config) if is_top else None
    if not is_top:
        config = msgspec.structs.replace(config, near_duplicates=None)
    return select(scores, config, bottom=bottom, refused=refused, is_refused=guard)


def _sizes(run: Run) -> np.ndarray:
    """What each row counts for in an arm's budget."""
    return np.ones(run.examples.num_rows, np.int64) if _by_number(run) else run.examples.lengths


def _by_number(run: Run) -> bool:
    """Whether arms are of equal numbers of rows instead of tokens."""
    experiment = run.experiment
    is_chat = experiment.pool.format == "conversations"
    return is_chat and experiment.selection.candidates is not None


def _selected_size(run: Run) -> int:
    candidates = run.experiment.selection.candidates
    if _by_number(run) and candidates is not None:
        return candidates
    return _selected_tokens(run)


def _selected_tokens(run: Run) -> int:
    selection = run.experiment.selection
    total = run.examples.num_tokens
    if selection.tokens is not None:
        return int(selection.tokens)
    if selection.fraction is not None:
        return int(selection.fraction * total)
    assert selection.candidates is not None
    return int(selection.candidates * total / run.examples.num_candidates)


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
    trained = load_saved(model, run.device)
    return {
        name: example_losses(trained, examples, batch_tokens=EVALUATION_TOKENS)
        for name, examples in rows.items()
    }


def _write_losses(losses: Mapping[str, np.ndarray], draft: Draft) -> None:
    for name, values in losses.items():
        np.save(draft.path / f"{name}.npy", values)
    means = {name: float(values.mean()) for name, values in losses.items()}
    write_json(draft.path / LOSSES, means)
    draft.counts["loss"] = means
