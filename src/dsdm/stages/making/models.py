"""Trains models on rows of the pool, and estimates directions at the proxies."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from dsdm.artifacts import Draft, load_manifest, write_json
from dsdm.config import Config, fingerprint
from dsdm.datamodel.config import estimator_settings
from dsdm.datamodel.estimate import (
    Estimated,
    estimate,
    estimate_along_training,
    save_estimated,
)
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.errors import ConfigError
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.protocol import Training
from dsdm.lm.config import ModelConfig, TrainConfig
from dsdm.lm.model import check_finite, check_row_length, load_model, save_model
from dsdm.lm.moments import save_moments
from dsdm.lm.replay import Replay
from dsdm.lm.schedule import checkpoint_rates, kept_steps
from dsdm.lm.train import epoch_order, forget, plan_steps, train
from dsdm.progress import Advance, progress
from dsdm.stages.run import CHECKPOINTS, RATES, Run

SUBSET = "subset.npy"
"""File in a proxy's folder: the rows that it was trained on, sorted."""


def derived_seed(*purpose: object) -> int:
    """A seed of its own for every purpose."""
    return int(fingerprint(list(purpose))[:8], 16) % (2**31)


def directions_seed(run: Run, number: int) -> int:
    """What the directions of one checkpoint are drawn with."""
    return derived_seed(run.experiment.seed, "directions", run.experiment.directions.seed, number)


def training_folder(draft: Draft) -> Path:
    """Where a training keeps its own checkpoints until the draft is finished."""
    return draft.target.with_name(f".{draft.target.name}.training")


@dataclass(frozen=True)
class CheckpointPlan:
    """What a training leaves beside the model that it ends with."""

    count: int = 1
    """Checkpoints that are kept, the end included."""
    first: float | None = None
    """Where the first of several is, as a share of the training (`kept_steps`)."""
    moments: bool = False
    """Whether Adam's moments are kept at each."""

    def folders(self, work: Path, num_steps: int) -> dict[int, Path]:
        """Where each checkpoint before the last is written while training goes on, by its step.

        Raises:
            ConfigError: two of them would be at the same step, or one before the first.
        """
        steps = kept_steps(num_steps, self.count, self.first)
        if steps[0] < 1 or len(set(steps)) < len(steps):
            first = "" if self.first is None else f", proxies.first_checkpoint {self.first:g}"
            raise ConfigError(
                f"proxies.checkpoints {self.count}{first}: a proxy is trained for {num_steps} "
                "steps, which have no such checkpoints. Train longer, or in smaller batches."
            )
        return {step: work / CHECKPOINTS / str(i) for i, step in enumerate(steps[:-1])}


LAST_ALONE = CheckpointPlan()


def train_model(
    run: Run,
    model: ModelConfig,
    config: TrainConfig,
    order: np.ndarray,
    seed: int,
    draft: Draft,
    plan: CheckpointPlan = LAST_ALONE,
) -> None:
    """Trains a model on rows of the pool into the draft, from where a killed run left it."""
    vocab_size, eos = run.tokenizer.vocab_size, run.tokenizer.eos
    trained = load_model(model, vocab_size=vocab_size, eos=eos, seed=seed, device=run.device)
    # Beside the draft, which is deleted when a killed run begins again.
    work = training_folder(draft)
    title = "/".join(draft.target.parts[-2:])
    lengths = run.examples.lengths_of(order)
    num_steps = len(plan_steps(lengths, config.batch_tokens, config.batch_rows))
    kept = plan.folders(work, num_steps)
    with progress(title, int(lengths.sum()), "tokens") as advance:
        result = train(
            trained,
            run.examples,
            order,
            config,
            work=work,
            fingerprint=draft.fingerprint,
            kept=kept,
            keeps_moments=plan.moments,
            advance=advance,
        )
    save_model(trained, draft.path)
    if result.moments is not None:
        save_moments(result.moments, draft.path)
    for folder in kept.values():
        # Copied, so that a process that is killed from here on finds all of them again.
        shutil.copytree(folder, draft.path / CHECKPOINTS / folder.name)
    if plan.count > 1:
        rates = checkpoint_rates(config, num_steps, plan.count, plan.first)
        write_json(draft.path / RATES, rates)
    write_json(draft.path / "metrics.json", result.metrics)
    draft.counts.update(steps=result.steps, tokens=result.tokens, loss=result.metrics[-1]["loss"])
    draft.flops += result.flops
    draft.seconds_before = result.seconds_before
    forget(work)


def check_models(run: Run) -> None:
    """Makes each model once, so that one that can't be used stops the run before long work.

    Raises:
        ModelError: as `load_model` does, or rows are longer than the model reads.
        NumericalError: a weight is NaN or infinite.
    """
    compare = run.experiment.compare
    models = [run.experiment.model, *([compare.model] if compare and compare.model else [])]
    for config in models:
        vocab_size, eos = run.tokenizer.vocab_size, run.tokenizer.eos
        model = load_model(config, vocab_size=vocab_size, eos=eos, seed=0)
        check_row_length(model, run.experiment.examples.row_tokens)


@dataclass(frozen=True)
class ProxyRows:
    """What a proxy is trained on."""

    seed: int
    """Draws the rows, their order and the initial weights."""
    subset: np.ndarray
    """Row numbers, sorted."""
    order: np.ndarray
    """Row numbers as they are trained on, epoch by epoch."""


def proxy_rows(run: Run, number: int) -> ProxyRows:
    """The rows of one proxy."""
    proxies = run.experiment.proxies
    seed = derived_seed(run.experiment.seed, "proxy", number)
    rows = run.usable_rows
    share = proxies.fraction
    if proxies.tokens is not None:
        share = min(1.0, proxies.tokens / float(rows.lengths.sum()))
    count = max(1, round(share * len(rows)))
    drawn = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    subset = rows.originals(np.sort(drawn))
    return ProxyRows(seed, subset, epoch_order(subset, proxies.epochs, seed))


def train_proxy(run: Run, draft: Draft, number: int) -> None:
    """Trains one proxy."""
    proxies, rows = run.experiment.proxies, proxy_rows(run, number)
    np.save(draft.path / SUBSET, rows.subset)
    plan = CheckpointPlan(proxies.checkpoints, proxies.first_checkpoint, proxies.moments)
    train_model(run, run.experiment.model, proxies.train, rows.order, rows.seed, draft, plan)


def estimate_at(run: Run, draft: Draft, estimator: str, number: int) -> None:
    """Writes one estimator's directions at one checkpoint."""
    with progress(f"directions/{estimator}/{number}", None, "tokens") as advance:
        inputs = estimator_inputs(run, number, advance)
        estimated = estimate(inputs, estimator, _settings(run, estimator), run.experiment.scores)
    _write(estimated, draft)


def estimate_along(run: Run, drafts: Mapping[str, Draft], estimator: str, proxy: int) -> None:
    """Writes an estimator's directions at checkpoints of one proxy's training, by their numbers."""
    first = proxy * run.experiment.proxies.checkpoints
    numbers = range(first, first + run.experiment.proxies.checkpoints)
    with progress(f"directions/{estimator}/of-{proxy}", None, "tokens") as advance:
        estimated = estimate_along_training(
            [estimator_inputs(run, number, advance) for number in numbers],
            estimator,
            _settings(run, estimator),
            run.experiment.scores,
            [int(key) - first for key in drafts],
        )
    for number, found in estimated.items():
        _write(found, drafts[str(first + number)])


def estimator_inputs(run: Run, number: int, advance: Advance) -> EstimatorInputs:
    """What directions at one checkpoint are estimated of."""
    experiment, proxy = run.experiment, number // run.experiment.proxies.checkpoints
    trained = load_manifest(run.models / "proxies" / str(proxy))
    assert trained is not None, "directions are made of finished proxies"
    model = run.checkpoint(number)
    check_finite(model)
    directions = experiment.directions
    return EstimatorInputs(
        learner=CausalLM(
            model,
            directions.output,
            directions.context_share,
            directions.batch_tokens,
            directions.precision,
        ),
        targets=run.targets("fit"),
        pool=run.usable_rows,
        weights=run.weights,
        seed=directions_seed(run, number),
        calibration_seed=directions.seed + 1,
        embeddings=directions.embeddings,
        scorer=scorer_of(run, model),
        fingerprint=trained.fingerprint,
        training=Training(partial(replay_of, run, proxy), experiment.proxies.checkpoints),
        advance=advance,
    )


def scorer_of(run: Run, model: PreTrainedModel) -> CausalLM:
    """A model as it reads candidates."""
    directions, scores = run.experiment.directions, run.experiment.scores
    return CausalLM(
        model,
        directions.output,
        directions.context_share,
        scores.batch_tokens,
        scores.precision,
    )


def replay_of(run: Run, proxy: int, tail: float, smoothing: float) -> Replay:
    """The training of one proxy, not yet run, to be followed back."""
    experiment, rows = run.experiment, proxy_rows(run, proxy)
    vocab_size, eos = run.tokenizer.vocab_size, run.tokenizer.eos
    model = load_model(
        experiment.model, vocab_size=vocab_size, eos=eos, seed=rows.seed, device=run.device
    )
    config = experiment.proxies.train
    return Replay(model, run.examples, rows.order, config, tail=tail, smoothing=smoothing)


def _settings(run: Run, estimator: str) -> Config:
    return estimator_settings(run.experiment.directions, estimator)


def _write(estimated: Estimated, draft: Draft) -> None:
    save_estimated(estimated, draft.path)
    draft.counts["directions"] = len(estimated.directions)
    draft.flops += estimated.flops
