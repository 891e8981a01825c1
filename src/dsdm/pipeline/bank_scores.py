"""The scores of each estimator and baseline for each target by itself, and what they cost.

What a bank of retrained models is asked about. A run's own baselines are scores for the mix; here
each target is asked for alone, in a run of its own that shares pool and targets with the main one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from dsdm.artifacts import Draft
from dsdm.baselines.config import BASELINE_NAMES
from dsdm.errors import ArtifactError, ConfigError
from dsdm.evaluation.multiplier import MethodCost
from dsdm.pipeline.bank_stages import STAGE
from dsdm.pipeline.baseline_stages import baseline_work
from dsdm.pipeline.costs import own_cost
from dsdm.pipeline.data_stages import examples_work
from dsdm.pipeline.model_stages import directions_work, proxies_work
from dsdm.pipeline.run import Run
from dsdm.pipeline.score_stages import scores_work
from dsdm.pipeline.scores_table import SCORES, candidate_means, load_scores, write_candidate_scores
from dsdm.pipeline.select_stages import merged_scores_work
from dsdm.pipeline.work import Work, fingerprints, progress

COSINE = "cosine"


@dataclass(frozen=True)
class Rival:
    """One line of the table: a way to score, and the proxies that it uses."""

    method: str
    """An estimator, a baseline that reads text alone, or `cosine`."""
    proxies: int = 0
    """Scores are the mean over the first so many; 0 for what uses none."""


def cosine_work(run: Run) -> Iterator[Work]:
    """For each proxy, the cosine of each candidate's gradient with each target's."""
    examples = list(examples_work(run))
    gradients = [work for work in directions_work(run) if work.path.parent.name == "gradient"]
    proxies = list(proxies_work(run))
    scores = run.experiment.scores
    content = {
        "output": run.experiment.directions.output,
        "batch_tokens": scores.batch_tokens,
        "precision": scores.precision,
    }
    for number, (proxy, gradient) in enumerate(zip(proxies, gradients, strict=False)):
        path = run.folder / STAGE / COSINE / str(number)
        inputs = fingerprints([proxy, gradient, *examples])
        make = partial(_write_cosines, run, number, gradient.path)
        yield Work(STAGE, path, content, inputs, make)


def alone_work(run: Run, names: Sequence[str]) -> Iterator[Work]:
    """The scores of each named baseline for each target by itself."""
    for name in names:
        yield from (baseline_work(_alone(run, target), name) for target in _targets(run))


def rival_scores(run: Run, rival: Rival, num_candidates: int) -> dict[str, np.ndarray]:
    """By target: a score for each of the first `num_candidates` candidates, higher = keep.

    Raises:
        ConfigError: the run scores its targets' mix alone.
        ArtifactError: a file of scores is missing, or made with other settings.
    """
    if not run.experiment.scores.per_target:
        raise ConfigError(
            f"{run.folder}: scores the mix of its targets alone, and retraining is compared target "
            "by target. Set scores.per_target to true."
        )
    return {target: _scores(run, rival, target)[:num_candidates] for target in _targets(run)}


def proxy_trainings(run: Run, rival: Rival) -> MethodCost:
    """The cost of an estimator's scores in multiples of the training of one proxy.

    The proxies that it uses, their directions, and scoring the whole pool for every target; or the
    baseline, which takes no FLOPs that are counted. Not what every user has to do: tokenizing the
    pool and the targets. All proxies cost the same: what they took, divided by their number.
    """
    if rival.method in BASELINE_NAMES:
        share, made = 1.0, _cost(alone_work(run, [rival.method]))
    else:
        share = rival.proxies / run.experiment.proxies.count
        made = _cost(_made_with_proxies(run, rival.method))
    trained = _cost(proxies_work(run))
    share *= run.experiment.proxies.count
    return MethodCost(share * made.flops / trained.flops, share * made.seconds / trained.seconds)


def _made_with_proxies(run: Run, method: str) -> Iterator[Work]:
    """All that is needed for an estimator's scores, with all proxies."""
    estimator = "gradient" if method == COSINE else method
    yield from proxies_work(run)
    yield from (work for work in directions_work(run) if work.path.parent.name == estimator)
    if method == COSINE:
        yield from cosine_work(run)
    else:
        yield from (work for work in scores_work(run) if work.path.parent.name == method)


def _scores(run: Run, rival: Rival, target: str) -> np.ndarray:
    if rival.method in BASELINE_NAMES:
        path = _finished(baseline_work(_alone(run, target), rival.method)) / SCORES
        return load_scores(path, rival.method, "").values
    if rival.method == COSINE:
        paths = [_finished(work) for work in islice(cosine_work(run), rival.proxies)]
    else:
        (merged,) = merged_scores_work(run)
        paths = [_finished(merged)] * rival.proxies
    columns = [
        load_scores(path / SCORES, f"{rival.method}.{number}.{target}", "").values
        for number, path in enumerate(paths)
    ]
    return np.asarray(np.mean(columns, axis=0, dtype=np.float64))


def _finished(work: Work) -> Path:
    state, changes = work.state()
    if state != "done":
        why = "; ".join([f"is {state}", *changes])
        raise ArtifactError(f"{work.path}: {why}. Make it again.")
    return work.path


def _write_cosines(run: Run, number: int, gradient: Path, draft: Draft) -> None:
    from dsdm.datamodel.cosines import cosine_scores
    from dsdm.datamodel.directions import load_direction
    from dsdm.datamodel.estimate import direction_path
    from dsdm.datamodel.scoring import BACKWARD_PASSES
    from dsdm.lm.model import flops_per_token

    experiment, examples, model = run.experiment, run.examples, run.proxy(number)
    directions = [
        load_direction(direction_path(gradient, target), model.device) for target in _targets(run)
    ]
    with progress(f"{STAGE}/{COSINE}/{number}", examples.num_rows, "rows") as advance:
        cosines = cosine_scores(
            model, directions, examples, experiment.directions.output, experiment.scores, advance
        )
    seq = int(examples.lengths.max())
    draft.flops = BACKWARD_PASSES * examples.num_tokens * flops_per_token(model, seq)
    columns = {
        f"{COSINE}.{number}.{target}": candidate_means(
            cosines[:, i], examples.lengths, examples.candidate_of_row, examples.num_candidates
        )
        for i, target in enumerate(_targets(run))
    }
    draft.counts["candidates"] = write_candidate_scores(examples, columns, draft.path / SCORES)


def _alone(run: Run, target: str) -> Run:
    """A run for one target alone, which shares the pool and the targets of `run`."""
    (config,) = [one for one in run.experiment.targets if one.name == target]
    changes = {"run": str(run.folder / STAGE / "alone" / target), "targets": (config,)}
    return Run(msgspec.structs.replace(run.experiment, **changes), run)


def _targets(run: Run) -> list[str]:
    return [target.name for target in run.experiment.targets]


def _cost(works: Iterable[Work]) -> MethodCost:
    return sum((own_cost(work.path, work.stage) for work in works), MethodCost())
