"""The scores of each method for each target by itself, and what they cost.

A run's own baselines are scores for the mix; retraining is compared target by target, so here each
baseline is asked for each target alone. What a run does not make itself is kept in RUN/lds.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dsdm.artifacts import write_json
from dsdm.baselines import BASELINES, baseline_settings
from dsdm.config import fingerprint
from dsdm.datamodel.columns import ScoreColumn
from dsdm.datamodel.estimate import load_estimated
from dsdm.datamodel.scoring import BACKWARD_PASSES, cosine_scores
from dsdm.errors import ConfigError
from dsdm.evaluation.lds import TargetScores
from dsdm.evaluation.multiplier import MethodCost
from dsdm.reporting.measured import method_cost
from dsdm.stages.making.compare import baseline_inputs
from dsdm.stages.making.models import scorer_of
from dsdm.stages.run import Run

COSINE = "cosine"


@dataclass(frozen=True)
class Method:
    """A way to score, and the proxies that it uses."""

    name: str
    """An estimator, a baseline that reads text alone, or `cosine`."""
    proxies: int = 0
    """Scores are the mean over the first so many; 0 for what uses none."""


def method_scores(run: Run, method: Method) -> TargetScores:
    """By target: a score for each candidate, higher = keep. The run's scores are finished.

    Raises:
        ConfigError: the run scores its targets' mix alone.
    """
    if not run.experiment.scores.per_target:
        raise ConfigError(
            f"{run.folder}: scores the mix of its targets alone, and retraining is compared target "
            "by target. Set scores.per_target to true."
        )
    targets, numbers = list(run.weights), range(method.proxies)
    if method.name in BASELINES:
        return {target: _baseline(run, method.name, target)[0] for target in targets}
    if method.name == COSINE:
        by_proxy = np.mean([_cosines(run, number)[0] for number in numbers], axis=0)
        return dict(zip(targets, by_proxy, strict=True))
    path = run.folder / "scores" / "all" / "scores.parquet"
    found = {}
    for target in targets:
        names = [str(ScoreColumn(method.name, number, target)) for number in numbers]
        columns = pq.read_table(path, columns=names).columns
        found[target] = np.mean([one.to_numpy() for one in columns], axis=0, dtype=np.float64)
    return found


def proxy_trainings(run: Run, method: Method) -> MethodCost:
    """The cost of a method's scores in multiples of the training of one proxy.

    The proxies that it uses, their directions, and scoring the whole pool for every target; or the
    baseline, which takes no FLOPs that are counted. Not what every user has to do: tokenizing the
    pool and the targets. All proxies cost the same: what they took, divided by their number.
    """
    num_proxies, training = run.experiment.proxies.count, _finished(run, "proxies")
    share = method.proxies / num_proxies
    if method.name in BASELINES:
        share, parts = 1.0, [_baseline(run, method.name, target)[1] for target in run.weights]
    elif method.name == COSINE:
        parts = [training, _finished(run, "directions/gradient")]
        parts += [_cosines(run, number)[1] for number in range(num_proxies)]
    else:
        parts = [
            training,
            _finished(run, f"directions/{method.name}"),
            _finished(run, f"scores/{method.name}"),
        ]
    total, share = sum(parts, MethodCost()), share * num_proxies
    return MethodCost(
        share * total.flops / training.flops, share * total.seconds / training.seconds
    )


def _finished(run: Run, part: str) -> MethodCost:
    found = method_cost(run.folder / part, is_shared=part.startswith("directions"))
    assert found is not None, f"{part} is finished"
    return found


def _baseline(run: Run, name: str, target: str) -> tuple[np.ndarray, MethodCost]:
    """A baseline's scores for one target alone."""
    experiment = run.experiment
    settings = baseline_settings(experiment.baselines, name)

    def make() -> tuple[np.ndarray, float]:
        return BASELINES[name].score(baseline_inputs(run, {target: 1.0}), settings).values, 0.0

    made_of = [experiment.pool, experiment.targets, settings, experiment.seed]
    return _kept(run.folder / "lds" / "alone" / f"{name}-{target}", made_of, make)


def _cosines(run: Run, number: int) -> tuple[np.ndarray, MethodCost]:
    """For one proxy, by target the cosine of each candidate's gradient with the target's."""
    experiment, examples = run.experiment, run.examples

    def make() -> tuple[np.ndarray, float]:
        learner = scorer_of(run, run.proxy(number))
        folder = run.models / "directions" / "gradient" / str(number)
        directions = load_estimated(folder, run.weights, run.device).directions
        cosines = cosine_scores(learner, [directions[t] for t in run.weights], examples)
        owner, count = examples.candidate_of_row, examples.num_candidates
        predicted = np.maximum(examples.lengths - 1, 1).astype(np.float64)
        sums = np.stack([np.bincount(owner, one * predicted, count) for one in cosines.T])
        tokens, row_flops = examples.num_tokens, learner.pass_flops(int(examples.lengths.max()))
        means = sums / np.maximum(np.bincount(owner, predicted, count), 1)
        return means, BACKWARD_PASSES * tokens * row_flops

    made_of = [
        experiment.pool,
        experiment.targets,
        experiment.proxies,
        experiment.directions,
        experiment.scores,
        experiment.seed,
    ]
    return _kept(run.folder / "lds" / COSINE / str(number), made_of, make)


def _kept(
    folder: Path, made_of: object, make: Callable[[], tuple[np.ndarray, float]]
) -> tuple[np.ndarray, MethodCost]:
    """Values and their cost from a folder, where they are kept once they are made.

    Args:
        folder: Where to.
        made_of: The settings that decide them.
        make: Gives values and FLOPs.
    """
    key, about = fingerprint(made_of), folder / "about.json"
    if about.is_file():
        found = json.loads(about.read_text(encoding="utf-8"))
        if found["key"] == key:
            return np.load(folder / "values.npy"), MethodCost(found["flops"], found["seconds"])
    start = time.monotonic()
    values, flops = make()
    cost = MethodCost(flops, time.monotonic() - start)
    folder.mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)
    np.save(folder / "values.npy", values)
    write_json(about, {"key": key, **vars(cost)})
    return values, cost
