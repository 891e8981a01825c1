"""The works of a check: samples of scores, halves of the targets, the probe's trainings.

They are no stages of a run and nothing but the verdict is made of them, so one that is stale is
made again unasked.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dsdm.artifacts import Draft
from dsdm.config import as_dict
from dsdm.data.sequences import Rows, Subset
from dsdm.datamodel.calibration import load_calibration
from dsdm.datamodel.config import MIX, TRAITS
from dsdm.lm.config import TrainConfig, training_content
from dsdm.pipeline.losses import EVALUATION_TOKENS
from dsdm.pipeline.model_stages import (
    derived_seed,
    directions_seed,
    directions_work,
    replay_of,
    target_rows,
    target_weights,
    training_folder,
    usable_rows,
)
from dsdm.pipeline.run import Run
from dsdm.pipeline.work import Work, fingerprints, progress
from dsdm.trust.config import CheckConfig
from dsdm.trust.measured import KINDS

FOLDER = "check"
SAMPLE = "sample.npz"
HALVES = "halves.npz"
LOSSES = "losses.npz"
ORDER = "order.npy"
BEFORE = "before"
"""What the probed proxy's losses are found under."""
PROBED = 0
"""The proxy that halves and probe look at."""
UNIGRAM_ROWS = 20_000
"""Of a proxy's training rows, to count tokens in."""
MIN_UNSEEN = 0.25
"""Share of the sample from which on the probe keeps to rows that its proxy has not seen."""


def samples_work(run: Run, config: CheckConfig) -> Iterator[Work]:
    """What each proxy says of the sample."""
    for number, directions in enumerate(_selecting_directions(run)):
        path = run.folder / FOLDER / "samples" / str(number)
        make = partial(_sample, run, config, number)
        yield Work(FOLDER, path, _content(run, config), fingerprints([directions]), make)


def halves_work(run: Run, config: CheckConfig) -> Iterator[Work]:
    """Scores of the sample along the directions of halves of each target."""
    directions = _selecting_directions(run)[PROBED]
    path = run.folder / FOLDER / "halves"
    make = partial(_halves, run, config)
    yield Work(FOLDER, path, _content(run, config), fingerprints([directions]), make)


def probes_work(run: Run, config: CheckConfig) -> Iterator[Work]:
    """The probed proxy's losses, and one short training for each group."""
    inputs = fingerprints(list(samples_work(run, config)))
    content = _content(run, config)
    path = run.folder / FOLDER / "probes" / BEFORE
    yield Work(FOLDER, path, content, inputs, partial(_losses_before, run, config))
    for number in range(len(KINDS) * config.probe.groups):
        settings = {
            "sample": content,
            "probe": config.probe,
            "group": number,
            "train": training_content(probe_train(run, config)),
        }
        path = run.folder / FOLDER / "probes" / f"{number:02d}"
        yield Work(FOLDER, path, settings, inputs, partial(_probe, run, config, number))


def probe_train(run: Run, config: CheckConfig) -> TrainConfig:
    """How the probe's groups are trained on."""
    from dsdm.trust.probe import probe_training

    experiment = run.experiment
    return probe_training(config.probe, experiment.proxies.train, experiment.examples.row_tokens)


def sampled_rows(run: Run, config: CheckConfig) -> np.ndarray:
    """The rows of the pool that the check looks at, sorted."""
    rows = usable_rows(run)
    rng = np.random.default_rng(_seed(run, config, "rows"))
    drawn = rng.choice(len(rows), min(config.rows, len(rows)), replace=False)
    return rows.originals(np.sort(drawn))


def seen_rows(run: Run, config: CheckConfig, number: int) -> np.ndarray:
    """Which of the sampled rows a proxy was trained on."""
    subset = np.load(run.folder / "proxies" / str(number) / "subset.npy")
    return np.isin(sampled_rows(run, config), subset)


def drawn_groups(run: Run, config: CheckConfig) -> tuple[np.ndarray, list[Any]]:
    """The sampled rows that the probe may train on, and its groups as positions among them."""
    from dsdm.trust.groups import draw_groups
    from dsdm.trust.measure import combined_scores

    rows, scores = sampled_rows(run, config), combined_scores(load_samples(run, config))[MIX]
    unseen = ~seen_rows(run, config, PROBED)
    if unseen.mean() >= MIN_UNSEEN:
        rows, scores = rows[unseen], scores[unseen]
    probe, seed = config.probe, _seed(run, config, "groups")
    return rows, draw_groups(scores, run.examples.lengths[rows], probe.groups, probe.share, seed)


def load_samples(run: Run, config: CheckConfig) -> list[Any]:
    """Each proxy's finished sample."""
    from dsdm.trust.sample import load_sample

    return [load_sample(work.path / SAMPLE) for work in samples_work(run, config)]


def tune_rows(run: Run, config: CheckConfig) -> dict[str, Rows]:
    """Some examples of each target's tune part."""
    from dsdm.trust.sample import spread_out

    return {
        name: Subset(rows, spread_out(len(rows.lengths), config.tune_examples))
        for name, rows in target_rows(run, "tune").items()
    }


def _selecting_directions(run: Run) -> list[Work]:
    """Those of the proxies as they are at the end of their training."""
    method, each = run.experiment.selecting_estimator, run.experiment.proxies.checkpoints
    found = [work for work in directions_work(run) if work.path.parent.name == method]
    return found[each - 1 :: each]


def _content(run: Run, config: CheckConfig) -> dict[str, Any]:
    content = {name: value for name, value in as_dict(config).items() if name != "probe"}
    return content | {"run seed": run.experiment.seed}


def _seed(run: Run, config: CheckConfig, *purpose: object) -> int:
    return derived_seed(run.experiment.seed, FOLDER, config.seed, *purpose)


def _sample(run: Run, config: CheckConfig, number: int, draft: Draft) -> None:
    from dsdm.datamodel.directions import load_direction
    from dsdm.datamodel.estimate import direction_path
    from dsdm.datamodel.scoring import BACKWARD_PASSES
    from dsdm.lm.model import flops_per_token
    from dsdm.trust.proxies import unigram_entropy
    from dsdm.trust.sample import sample_proxy, save_sample

    experiment, model = run.experiment, run.proxy(number)
    folder = _selecting_directions(run)[number].path
    rows = Subset(run.examples, sampled_rows(run, config))
    sample = sample_proxy(
        model,
        {n: load_direction(direction_path(folder, n)) for n in (MIX, *target_weights(run))},
        load_calibration(folder).steps,
        rows,
        tune_rows(run, config),
        experiment.directions,
        experiment.scores,
        config.exact_rows,
    )
    save_sample(sample, draft.path / SAMPLE)
    draft.counts["rows"] = len(rows.indices)
    draft.counts["unigram"] = unigram_entropy(_training_rows(run, config, number))
    passes = 4.0 + BACKWARD_PASSES
    row_flops = flops_per_token(model, int(rows.lengths.max()))
    draft.flops += passes * float(rows.lengths.sum()) * row_flops


def _training_rows(run: Run, config: CheckConfig, number: int) -> Subset:
    from dsdm.datamodel.scoring import random_rows

    subset = np.load(run.folder / "proxies" / str(number) / "subset.npy")
    trained_on = Subset(run.examples, subset)
    return random_rows(trained_on, UNIGRAM_ROWS, _seed(run, config, "unigram", number))


def _halves(run: Run, config: CheckConfig, draft: Draft) -> None:
    from dsdm.lm.model import flops_per_token
    from dsdm.trust.halves import half_directions, half_metagradients, split_halves
    from dsdm.trust.slopes import row_slopes

    experiment, model = run.experiment, run.proxy(PROBED)
    method, directions = experiment.selecting_estimator, experiment.directions
    targets = target_rows(run, "fit")
    halves = {name: split_halves(t, _seed(run, config, name)) for name, t in targets.items()}
    curvature, is_other = _curvature_rows(run, config)
    with progress("check/halves", None, "tokens") as advance:
        if TRAITS[method].of_training:
            replay, checkpoints = replay_of(run, PROBED), experiment.proxies.checkpoints
            found = half_metagradients(replay, checkpoints, directions, halves, advance)
            tokens = replay.passes(2 * len(halves)) * replay.num_tokens
        else:
            found = half_directions(model, method, directions, halves, curvature, advance)
            tokens = 6.0 * float(curvature.lengths.sum())
    rows = Subset(run.examples, sampled_rows(run, config))
    output, arrays = directions.output, {"is_other": np.array(is_other)}
    for name, pair in found.items():
        slopes = row_slopes(model, pair, rows, output, experiment.scores)
        arrays[f"first.{name}"], arrays[f"second.{name}"] = slopes.T
        arrays[f"counts.{name}"] = np.array([len(half.indices) for half in halves[name]])
    np.savez(draft.path / HALVES, allow_pickle=False, **arrays)
    tokens += 4.0 * len(found) * float(rows.lengths.sum())
    draft.flops += tokens * flops_per_token(model, int(rows.lengths.max()))


def _curvature_rows(run: Run, config: CheckConfig) -> tuple[Subset, bool]:
    """Rows for another curvature than the run's, or the run's own where the pool has no others."""
    from dsdm.datamodel.scoring import random_rows
    from dsdm.trust.sample import other_rows

    pool, directions = usable_rows(run), run.experiment.directions
    own = random_rows(pool, directions.curvature_rows, directions_seed(run, PROBED))
    other = other_rows(own.indices, len(pool), _seed(run, config, "curvature"))
    return (own, False) if other is None else (Subset(pool, other), True)


def _losses_before(run: Run, config: CheckConfig, draft: Draft) -> None:
    _write_losses(run, config, run.proxy(PROBED), draft)


def _probe(run: Run, config: CheckConfig, number: int, draft: Draft) -> None:
    from dsdm.lm.train import train
    from dsdm.trust.groups import training_order

    rows, groups = drawn_groups(run, config)
    model, settings = run.proxy(PROBED), probe_train(run, config)
    tokens = config.probe.steps * settings.batch_tokens
    among, seed = Subset(run.examples, rows), _seed(run, config, "order", number)
    order = training_order(groups[number][1], among.lengths, tokens, seed)
    # Beside the draft, which is emptied when a killed check begins again.
    work = training_folder(draft)
    with progress(f"check/probes/{number:02d}", tokens, "tokens") as advance:
        result = train(
            model,
            among,
            order,
            settings,
            work=work,
            fingerprint=draft.fingerprint,
            advance=advance,
        )
    np.save(draft.path / ORDER, order)
    draft.counts.update(steps=result.steps, tokens=result.tokens)
    draft.flops += result.flops
    draft.seconds_before = result.seconds_before
    _write_losses(run, config, model, draft)
    shutil.rmtree(work, ignore_errors=True)


def _write_losses(run: Run, config: CheckConfig, model: Any, draft: Draft) -> None:
    from dsdm.trust.probe import target_losses

    losses = target_losses(model, tune_rows(run, config), EVALUATION_TOKENS)
    named = {f"losses.{name}": values for name, values in losses.items()}
    np.savez(draft.path / LOSSES, allow_pickle=False, **named)


def load_losses(path: Path) -> dict[str, np.ndarray]:
    """The losses of each target's examples in a finished probe's folder."""
    from dsdm.trust.sample import columns_under

    with np.load(path / LOSSES, allow_pickle=False) as arrays:
        return columns_under("losses.", arrays)
