"""Measures whether to trust the scores of the selecting estimator, and judges what was measured."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from dsdm.artifacts import Draft, load_manifest, write_json
from dsdm.checking.halves import half_directions, split_halves
from dsdm.checking.measured import Agreement, Check, Curvature, Measurements, Probe, ProxyLoss
from dsdm.checking.measures import (
    agreement_of_curvatures,
    agreement_of_halves,
    agreement_of_proxies,
    combined_scores,
    confounds_of,
    mean_target_slopes,
)
from dsdm.checking.probe import (
    Group,
    TrainedGroup,
    draw_groups,
    group_order,
    measure_probe,
    probe_rows,
    probe_training,
)
from dsdm.checking.sample import (
    ProxySample,
    columns_under,
    curvature_of,
    load_sample,
    other_rows,
    proxy_loss,
    sample_proxy,
    save_sample,
    spread_out,
    unigram_entropy,
)
from dsdm.checking.slopes import row_slopes
from dsdm.checking.verdict import judge
from dsdm.data.batches import Rows, Subset
from dsdm.datamodel.config import MIX, estimator_settings
from dsdm.datamodel.estimate import load_estimated
from dsdm.datamodel.estimators import CurvatureConfig
from dsdm.datamodel.estimators.inputs import random_indices
from dsdm.datamodel.scoring import BACKWARD_PASSES
from dsdm.evaluation.correlations import pearson
from dsdm.evaluation.losses import target_losses
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.lm_layers import moved_layers
from dsdm.lm.config import TrainConfig
from dsdm.lm.model import load_model
from dsdm.lm.train import train
from dsdm.progress import progress
from dsdm.stages.check import BEFORE, CHECK, PROBED
from dsdm.stages.making.compare import EVALUATION_TOKENS
from dsdm.stages.making.models import (
    SUBSET,
    derived_seed,
    directions_seed,
    estimator_inputs,
    scorer_of,
    training_folder,
)
from dsdm.stages.run import Run

SAMPLE = "sample.npz"
HALVES = "halves.npz"
LOSSES = "losses.npz"
ORDER = "order.npy"
UNIGRAM_ROWS = 20_000
"""Of a proxy's training rows, to count tokens in."""


def sample(run: Run, draft: Draft, number: int) -> None:
    """What one proxy says of the sample."""
    learner = scorer_of(run, run.proxy(number))
    estimated = load_estimated(_directions(run, number), [MIX, *run.weights])
    rows = Subset(run.examples, _sampled_rows(run))
    found = sample_proxy(
        learner,
        estimated.directions,
        estimated.calibration.steps,
        rows,
        _tune_rows(run),
        run.experiment.check.exact_rows,
    )
    save_sample(found, draft.path / SAMPLE)
    trained_on = np.load(run.models / "proxies" / str(number) / SUBSET)
    some = random_indices(len(trained_on), UNIGRAM_ROWS, _seed(run, "unigram", number))
    unigram = unigram_entropy(Subset(run.examples, trained_on[some]))
    draft.counts.update(rows=len(rows.indices), unigram=unigram)
    passes = 4.0 + BACKWARD_PASSES
    draft.flops += passes * float(rows.lengths.sum()) * learner.pass_flops(int(rows.lengths.max()))


def measure_halves(run: Run, draft: Draft) -> None:
    """Scores of the sample along the directions of random halves of each target."""
    estimator = run.experiment.selecting_estimator
    halves = {
        name: split_halves(rows, _seed(run, name)) for name, rows in run.targets("fit").items()
    }
    curvature, is_other = _curvature_rows(run)
    settings = estimator_settings(run.experiment.directions, estimator)

    def count_flops(flops: float) -> None:
        draft.flops += flops

    last = (PROBED + 1) * run.experiment.proxies.checkpoints - 1
    with progress("check/halves", None, "tokens") as advance:
        inputs = replace(
            estimator_inputs(run, last, advance), sample=curvature, count_flops=count_flops
        )
        found = half_directions(inputs, estimator, settings, halves)
    rows, learner = Subset(run.examples, _sampled_rows(run)), inputs.scorer
    assert isinstance(learner, CausalLM)
    arrays = {"is_other": np.array(is_other)}
    for name, pair in found.items():
        arrays[f"first.{name}"], arrays[f"second.{name}"] = row_slopes(learner, pair, rows).T
        arrays[f"counts.{name}"] = np.array([len(half.indices) for half in halves[name]])
    np.savez(draft.path / HALVES, allow_pickle=False, **arrays)
    tokens = 4.0 * len(found) * float(rows.lengths.sum())
    tokens += 6.0 * float(curvature.lengths.sum()) if curvature is not None else 0.0
    draft.flops += tokens * learner.pass_flops(int(rows.lengths.max()))


def measure_before(run: Run, draft: Draft) -> None:
    """The losses of the probed proxy on tune examples."""
    _write_losses(run, run.proxy(PROBED), draft)


def probe(run: Run, draft: Draft, number: int) -> None:
    """Trains the probed proxy on one group of the sample, and measures its losses."""
    rows, groups = _drawn_groups(run)
    model, config = run.proxy(PROBED), _probe_train(run)
    tokens = run.experiment.check.probe.steps * config.batch_tokens
    among = Subset(run.examples, rows)
    order = group_order(groups[number][1], among.lengths, tokens, _seed(run, "order", number))
    # Beside the draft, which is deleted when a killed check begins again.
    work = training_folder(draft)
    with progress(f"check/probes/{number:02d}", tokens, "tokens") as advance:
        result = train(
            model, among, order, config, work=work, fingerprint=draft.fingerprint, advance=advance
        )
    np.save(draft.path / ORDER, order)
    draft.counts.update(steps=result.steps, tokens=result.tokens)
    draft.flops += result.flops
    draft.seconds_before = result.seconds_before
    _write_losses(run, model, draft)
    shutil.rmtree(work, ignore_errors=True)


def judge_measured(run: Run, draft: Draft) -> None:
    """The verdict on what was measured."""
    samples, rows = _samples(run), _sampled_rows(run)
    seen = [_seen_rows(run, number) for number in range(len(samples))]
    between_halves, between_curvatures = _agreement_of_halves(run, samples[PROBED])
    measured = Measurements(
        method=run.experiment.selecting_estimator,
        rows=len(rows),
        curvature=_curvature(run),
        proxies=_proxy_losses(run, samples, seen),
        between_proxies=agreement_of_proxies(samples),
        between_halves=between_halves,
        between_curvatures=between_curvatures,
        scorer=[pearson(one.scored, one.exact) for one in samples],
        target_slopes=mean_target_slopes(samples, run.experiment.check.seed),
        confounds=confounds_of(samples, seen, run.examples.lengths[rows], _sources(run, rows)),
        probe=_measured_probe(run, samples),
    )
    _write_check(measured, draft)


def judge_failure(run: Run, draft: Draft, failure: str) -> None:
    """The verdict where there are no scores to measure."""
    estimator = run.experiment.selecting_estimator
    _write_check(Measurements(estimator, failure=failure, curvature=_curvature(run)), draft)


def _write_check(measured: Measurements, draft: Draft) -> None:
    check = Check(measured, judge(measured))
    write_json(draft.path / CHECK, msgspec.to_builtins(check))
    draft.counts["trust"] = check.verdict.trust


def _directions(run: Run, proxy: int) -> Path:
    """The selecting estimator's directions at the end of a proxy's training."""
    checkpoint = (proxy + 1) * run.experiment.proxies.checkpoints - 1
    return run.models / "directions" / run.experiment.selecting_estimator / str(checkpoint)


def _seed(run: Run, *purpose: object) -> int:
    return derived_seed(run.experiment.seed, "check", run.experiment.check.seed, *purpose)


def _sampled_rows(run: Run) -> np.ndarray:
    """The rows of the pool that the check looks at, sorted."""
    rows = run.usable_rows
    rng = np.random.default_rng(_seed(run, "rows"))
    drawn = rng.choice(len(rows), min(run.experiment.check.rows, len(rows)), replace=False)
    return rows.originals(np.sort(drawn))


def _seen_rows(run: Run, number: int) -> np.ndarray:
    """Which of the sampled rows a proxy was trained on."""
    return np.isin(_sampled_rows(run), np.load(run.models / "proxies" / str(number) / SUBSET))


def _samples(run: Run) -> list[ProxySample]:
    folder = run.folder / "check" / "samples"
    return [load_sample(folder / str(i) / SAMPLE) for i in range(run.experiment.proxies.count)]


def _tune_rows(run: Run) -> dict[str, Rows]:
    """Some examples of each target's tune part."""
    most = run.experiment.check.tune_examples
    return {
        name: Subset(rows, spread_out(len(rows.lengths), most))
        for name, rows in run.targets("tune").items()
    }


def _curvature_rows(run: Run) -> tuple[Subset | None, bool]:
    """Rows for another curvature than the run's, or the run's own where the pool has no others.

    And whether they are others. None where the estimator has no curvature.
    """
    pool, experiment = run.usable_rows, run.experiment
    settings = estimator_settings(experiment.directions, experiment.selecting_estimator)
    if not isinstance(settings, CurvatureConfig):
        return None, False
    seed = directions_seed(run, PROBED)
    own = random_indices(len(pool), settings.curvature_rows, seed)
    other = other_rows(own, len(pool), _seed(run, "curvature"))
    return (Subset(pool, own), False) if other is None else (Subset(pool, other), True)


def _drawn_groups(run: Run) -> tuple[np.ndarray, list[Group]]:
    """The sampled rows that the probes may train on, and their groups as positions among them."""
    rows, scores = _sampled_rows(run), combined_scores(_samples(run))[MIX]
    among = probe_rows(_seen_rows(run, PROBED))
    rows, scores = rows[among], scores[among]
    config, seed = run.experiment.check.probe, _seed(run, "groups")
    return rows, draw_groups(scores, run.examples.lengths[rows], config.groups, config.share, seed)


def _probe_train(run: Run) -> TrainConfig:
    experiment = run.experiment
    row_tokens = experiment.examples.row_tokens
    return probe_training(experiment.check.probe, experiment.proxies.train, row_tokens)


def _write_losses(run: Run, model: Any, draft: Draft) -> None:
    losses = target_losses(model, _tune_rows(run), batch_tokens=EVALUATION_TOKENS)
    named = {f"losses.{name}": values for name, values in losses.items()}
    np.savez(draft.path / LOSSES, allow_pickle=False, **named)


def _load_losses(path: Path) -> dict[str, np.ndarray]:
    with np.load(path / LOSSES, allow_pickle=False) as arrays:
        return columns_under("losses.", arrays)


def _curvature(run: Run) -> Curvature | None:
    experiment, tokenizer = run.experiment, run.tokenizer
    # Its sizes alone are read: a proxy may not be there.
    model = load_model(experiment.model, vocab_size=tokenizer.vocab_size, eos=tokenizer.eos, seed=0)
    layers = moved_layers(model, embeddings=experiment.directions.embeddings)
    estimator, rows = experiment.selecting_estimator, run.examples.num_rows
    settings = estimator_settings(experiment.directions, estimator)
    return curvature_of(layers, estimator, settings, rows)


def _counts(folder: Path) -> dict[str, Any]:
    manifest = load_manifest(folder)
    assert manifest is not None, f"{folder} is finished before it is judged"
    return manifest.counts


def _proxy_losses(
    run: Run, samples: Sequence[ProxySample], seen: Sequence[np.ndarray]
) -> list[ProxyLoss]:
    lengths = run.examples.lengths[_sampled_rows(run)]
    return [
        proxy_loss(
            one,
            lengths,
            seen[number],
            training=float(_counts(run.models / "proxies" / str(number))["loss"]),
            unigram=float(_counts(run.folder / "check" / "samples" / str(number))["unigram"]),
        )
        for number, one in enumerate(samples)
    ]


def _agreement_of_halves(run: Run, probed: ProxySample) -> tuple[list[Agreement], Agreement | None]:
    """The agreement between halves of the targets, and between samples for the curvature."""
    with np.load(run.folder / "check" / "halves" / HALVES, allow_pickle=False) as arrays:
        first, second = (columns_under(f"{half}.", arrays) for half in ("first", "second"))
        counts = {n: c.tolist() for n, c in columns_under("counts.", arrays).items()}
        is_other = bool(arrays["is_other"])
    other = None
    if is_other and _curvature(run) is not None:
        own = probed.scores[MIX]
        other = agreement_of_curvatures(own, first, second, counts, run.weights)
    return agreement_of_halves(first, second, run.weights), other


def _sources(run: Run, rows: np.ndarray) -> np.ndarray:
    """A number for the source of each row."""
    names = np.empty(len(rows), object)
    candidates = run.examples.candidate_of_row[rows]
    for shard in run.examples.shards:
        local = candidates - shard.first_candidate
        inside = (local >= 0) & (local < shard.num_candidates)
        if inside.any():
            column = run.examples.candidates_table(shard)["source"]
            names[inside] = column.take(pa.array(local[inside])).to_pylist()
    return np.unique(names.astype(str), return_inverse=True)[1]


def _measured_probe(run: Run, samples: Sequence[ProxySample]) -> Probe:
    config, folder = run.experiment.check, run.folder / "check" / "probes"
    rows, groups = _drawn_groups(run)
    trained = []
    for number, (kind, group) in enumerate(groups):
        path = folder / f"{number:02d}"
        order, tokens = np.load(path / ORDER), _counts(path)["tokens"]
        trained.append(TrainedGroup(kind, group, order, tokens, _load_losses(path)))
    among = np.isin(_sampled_rows(run), rows)
    return measure_probe(
        trained,
        run.examples.lengths[rows],
        {name: values[among] for name, values in combined_scores(samples).items()},
        _load_losses(folder / BEFORE),
        run.weights,
        seed=config.seed,
        steps=config.probe.steps,
        proxy_tokens=_counts(run.models / "proxies" / str(PROBED))["tokens"],
    )
