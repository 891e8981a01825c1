"""A check of a run: makes what it needs, measures, and says whether to trust the scores."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from dsdm.artifacts import Draft, disk_errors, load_manifest, write_json
from dsdm.datamodel.config import MIX, TRAITS
from dsdm.errors import ArtifactError, ConfigError, NumericalError
from dsdm.experiment import Experiment, record_experiment, save_experiment
from dsdm.pipeline import Announce, make_stages
from dsdm.pipeline.check_stages import (
    BEFORE,
    FOLDER,
    HALVES,
    ORDER,
    PROBED,
    drawn_groups,
    halves_work,
    load_losses,
    load_samples,
    probes_work,
    sampled_rows,
    samples_work,
    seen_rows,
)
from dsdm.pipeline.lock import alone_in
from dsdm.pipeline.model_stages import proxies_work, target_weights
from dsdm.pipeline.run import Run
from dsdm.pipeline.work import Work, fingerprints, finished_counts, perform
from dsdm.pipeline.workers import HERE, Workers
from dsdm.pipeline.workers import workers as start_workers
from dsdm.trust.config import CheckConfig
from dsdm.trust.measured import Agreement, Check, Curvature, Measured, Probe, ProxyLoss
from dsdm.trust.verdict import judge, thresholds

CHECK = "check.json"
VERDICT = "verdict"
"""Folder of CHECK."""
WORKS = {"samples": samples_work, "halves": halves_work, "probes": probes_work}


def run_check(
    experiment: Experiment,
    config: CheckConfig,
    *,
    workers: Workers = HERE,
    announce: Announce = lambda stage, made, total: None,
) -> Check:
    """Whether to trust the scores of the selecting method, and every number behind it.

    Makes the proxies and directions of that method where they are missing, and no scores.

    Args:
        experiment: Whose run to check.
        config: How much to look at.
        workers: Who makes artifacts.
        announce: Called after each step with its name, the artifacts made now, and all of them.

    Raises:
        DsdmError: as the stages do, but for numbers that can't be used: these are a verdict.
    """
    method = experiment.selecting_estimator
    if not TRAITS[method].is_slope:
        raise ConfigError(
            f"dsdm check can't look at `{method}`: its scores are no slopes along a direction. Set "
            "`estimator` to another of directions.estimators."
        )
    run = Run(_only_selecting(experiment))
    with alone_in(run.folder):
        _check_alone(run, experiment, config, workers, announce)
    return load_check(run.folder)


def _check_alone(
    run: Run, experiment: Experiment, config: CheckConfig, workers: Workers, announce: Announce
) -> None:
    try:
        _make_directions(run, experiment, workers, announce)
        with start_workers(run.experiment, workers) as perform_all:
            for name, maker in WORKS.items():
                make = partial(maker, config=config)
                works = list(make(run))
                _forget_stale(works)
                announce(f"{FOLDER}/{name}", perform_all(make, works), len(works))
    except NumericalError as error:
        work = _failure_work(run, str(error))
    else:
        work = _verdict_work(run, config)
    _forget_stale([work])
    perform(work)


def load_check(run_folder: Path) -> Check:
    """The finished check of a run.

    Raises:
        ArtifactError: there is none, or it can't be read.
    """
    path = run_folder / FOLDER / VERDICT / CHECK
    try:
        return msgspec.json.decode(path.read_bytes(), type=Check)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: is not there. Run `dsdm check`.") from error
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{path}: can't be read ({error}). Run `dsdm check` again.") from error


def _only_selecting(experiment: Experiment) -> Experiment:
    """The experiment with the selecting method alone, and nothing to compare."""
    directions = msgspec.structs.replace(
        experiment.directions, estimators=(experiment.selecting_estimator,)
    )
    changed: Experiment = msgspec.structs.replace(experiment, directions=directions, compare=None)
    return changed


def _make_directions(
    run: Run, experiment: Experiment, workers: Workers, announce: Announce
) -> None:
    described = experiment.folder / "experiment.yaml"
    with disk_errors(described):
        if not described.exists():
            save_experiment(experiment, described)
        make_stages(run, "directions", workers, announce)
        # Described as the user has it, not as what the check needs of it.
        record_experiment(experiment, described)


def _forget_stale(works: Sequence[Work]) -> None:
    for work in works:
        if work.state()[0] == "stale":
            shutil.rmtree(work.path)


def _verdict_work(run: Run, config: CheckConfig) -> Work:
    made = [work for maker in WORKS.values() for work in maker(run, config)]
    inputs = fingerprints([*proxies_work(run), *made])
    content = {"check": config, "thresholds": thresholds(), "weights": target_weights(run)}
    path = run.folder / FOLDER / VERDICT
    return Work(FOLDER, path, content, inputs, partial(_judge, run, config))


def _failure_work(run: Run, failure: str) -> Work:
    path = run.folder / FOLDER / VERDICT
    content = {"failure": failure, "thresholds": thresholds()}
    return Work(FOLDER, path, content, {}, partial(_judge_failure, run, failure))


def _judge(run: Run, config: CheckConfig, draft: Draft) -> None:
    _write_check(measure(run, config), draft)


def _judge_failure(run: Run, failure: str, draft: Draft) -> None:
    measured = Measured(
        run.experiment.selecting_estimator, failure=failure, curvature=_curvature(run)
    )
    _write_check(measured, draft)


def _write_check(measured: Measured, draft: Draft) -> None:
    check = Check(measured, judge(measured))
    write_json(draft.path / CHECK, msgspec.to_builtins(check))
    draft.counts["trust"] = check.verdict.trust


def measure(run: Run, config: CheckConfig) -> Measured:
    """All numbers, from finished works."""
    from dsdm.trust.measure import agreement_of_proxies, confounds_of, target_slopes
    from dsdm.trust.slopes import correlation

    samples, rows = load_samples(run, config), sampled_rows(run, config)
    seen = [seen_rows(run, config, number) for number in range(len(samples))]
    between_halves, between_curvatures = _halves(run, config)
    return Measured(
        method=run.experiment.selecting_estimator,
        rows=len(rows),
        curvature=_curvature(run),
        proxies=_proxy_losses(run, config),
        between_proxies=agreement_of_proxies(samples),
        between_halves=between_halves,
        between_curvatures=between_curvatures,
        scorer=[correlation(sample.scored, sample.exact) for sample in samples],
        target_slopes=target_slopes(samples, config.seed),
        confounds=confounds_of(samples, seen, run.examples.lengths[rows], _sources(run, rows)),
        probe=_probe(run, config),
    )


def _curvature(run: Run) -> Curvature | None:
    from dsdm.lm.model import load_model
    from dsdm.trust.proxies import curvature_of

    experiment, tokenizer = run.experiment, run.tokenizer
    # Its sizes alone are read: a proxy may not be there.
    model = load_model(experiment.model, vocab_size=tokenizer.vocab_size, eos=tokenizer.eos, seed=0)
    method, pool_rows = experiment.selecting_estimator, run.num_first_rows
    return curvature_of(model, method, experiment.directions, pool_rows)


def _proxy_losses(run: Run, config: CheckConfig) -> list[ProxyLoss]:
    from dsdm.trust.sample import proxy_loss

    lengths = run.examples.lengths[sampled_rows(run, config)]
    works = zip(proxies_work(run), samples_work(run, config), strict=True)
    return [
        proxy_loss(
            sample,
            lengths,
            seen_rows(run, config, number),
            training=float(finished_counts(proxy)["loss"]),
            unigram=float(finished_counts(sampled)["unigram"]),
        )
        for number, ((proxy, sampled), sample) in enumerate(
            zip(works, load_samples(run, config), strict=True)
        )
    ]


def _halves(run: Run, config: CheckConfig) -> tuple[list[Agreement], Agreement | None]:
    """The agreement between halves of the targets, and between samples for the curvature."""
    from dsdm.trust.halves import agreement_of_halves, whole_target
    from dsdm.trust.reliability import agreement, mixed
    from dsdm.trust.sample import columns_under

    weights = target_weights(run)
    with np.load(run.folder / FOLDER / "halves" / HALVES, allow_pickle=False) as arrays:
        first, second = (columns_under(f"{half}.", arrays) for half in ("first", "second"))
        counts = {n: c.tolist() for n, c in columns_under("counts.", arrays).items()}
        is_other = bool(arrays["is_other"])
    own = load_samples(run, config)[PROBED].scores[MIX]
    whole = mixed(whole_target(first, second, counts), weights)
    has_other = is_other and _curvature(run) is not None
    other = agreement(MIX, [own, whole], 1) if has_other else None
    return agreement_of_halves(first, second, weights), other


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


def _probe(run: Run, config: CheckConfig) -> Probe:
    from dsdm.trust.measure import gain_over_random, probe_groups
    from dsdm.trust.probe import mean_reductions, probe_correlations, reduction_reliability

    folder, weights = run.folder / FOLDER / "probes", target_weights(run)
    rows, groups = drawn_groups(run, config)
    folders = [folder / f"{number:02d}" for number in range(len(groups))]
    before, after = load_losses(folder / BEFORE), [load_losses(path) for path in folders]
    reductions = mean_reductions(before, after)
    scores = _group_scores(run, config, rows, folders)
    manifests = [load_manifest(path) for path in folders]
    tokens = sum(manifest.counts["tokens"] for manifest in manifests if manifest)
    proxy = list(proxies_work(run))[PROBED]
    return Probe(
        groups=probe_groups(groups, scores[MIX], reductions),
        gain=gain_over_random(groups, reductions, config.seed),
        correlations=probe_correlations(scores, reductions, weights, config.seed),
        reliability=reduction_reliability(before, after, weights, config.seed),
        steps=config.probe.steps,
        tokens=tokens,
        share_of_proxy=tokens / finished_counts(proxy)["tokens"],
    )


def _group_scores(
    run: Run, config: CheckConfig, rows: np.ndarray, folders: Sequence[Path]
) -> dict[str, np.ndarray]:
    """Each group's mean score for the mix and each target, as it was trained on."""
    from dsdm.trust.groups import mean_score
    from dsdm.trust.measure import combined_scores

    among = np.isin(sampled_rows(run, config), rows)
    orders = [np.load(path / ORDER) for path in folders]
    lengths = run.examples.lengths[rows]
    return {
        name: np.array([mean_score(scores[among], lengths, order) for order in orders])
        for name, scores in combined_scores(load_samples(run, config)).items()
    }
