"""What each stage of a run costs, counted in tokens and passes at measured speeds."""

import math

from dsdm.datamodel.calibrate import SHRINKS
from dsdm.datamodel.config import (
    ScreeningConfig,
    estimator_settings,
    scored_targets,
    scores_forward,
    shrinkage_of,
)
from dsdm.datamodel.estimators import CurvatureConfig, EstimatorCost, Workload, known_estimator
from dsdm.datamodel.estimators.costs import FACTOR_PASSES
from dsdm.datamodel.scoring import BACKWARD_PASSES, EXACT_PASSES, FORWARD_PASSES
from dsdm.experiment import Experiment
from dsdm.forecast.compare_costs import compare_costs, num_replicates
from dsdm.forecast.inputs import Cost, Measured, Number, num_candidates, step_tokens
from dsdm.learners.screening import MOST_SAMPLED
from dsdm.learners.topics import MOST_TEXTS, MOST_TOKENS
from dsdm.lm.replay import STATE_BYTES, keeps_all, replay_passes
from dsdm.selection.rules import selected_share

LOGITS_HELD = 6
"""Copies of a batch's logits that an exact slope holds."""
EXPORT_SECONDS_A_BYTE = 2e-8
"""To read the pool once more and write what is selected."""
TOPICS_SECONDS_A_TOKEN = 8e-7
"""To count a candidate's tokens and take them to its topics."""
TOPICS_BYTES_A_TOKEN = 30
"""Of a token of the sample that groups are made of: its count, and what is made of it."""
SCORES_SECONDS_A_CANDIDATE = 1e-5
"""To write, merge and sort the scores."""
TABLE_BYTES = 20
"""Of a token of the sample in the tables of a screening."""
LINE_BYTES = 60
"""Of a candidate in a table: where it is from."""
DUPLICATES_SECONDS_A_DOCUMENT = 2e-6
DUPLICATES_BYTES = 4096


def stage_costs(experiment: Experiment, measured: Measured) -> dict[str, Cost]:
    """The whole cost of each stage, in order."""
    base = measured.speed.base_bytes
    pool = measured.pool
    candidates = num_candidates(experiment, pool)
    share = selected_share(experiment.selection, candidates, pool.tokens)
    choosing = Cost(
        seconds=SCORES_SECONDS_A_CANDIDATE * candidates,
        disk=share * LINE_BYTES * candidates,
        memory=base + 100 * candidates,
    )
    exporting = Cost(
        seconds=EXPORT_SECONDS_A_BYTE * pool.text_bytes, disk=share * pool.file_bytes, memory=base
    )
    return {
        "tokenizer": Cost(seconds=pool.tokenizer_seconds, memory=base),
        "examples": _examples(measured),
        "duplicates": Cost(
            seconds=DUPLICATES_SECONDS_A_DOCUMENT * pool.documents,
            disk=DUPLICATES_BYTES,
            memory=base + pool.documents,
        ),
        "targets": Cost(seconds=measured.targets.seconds, memory=base),
        "overlap": Cost(seconds=measured.overlap_seconds * pool.tokens, memory=base),
        "topics": _topics(experiment, measured),
        "proxies": _proxies(experiment, measured).times(num_replicates(experiment)),
        "directions": _directions(experiment, measured).times(num_replicates(experiment)),
        "screening": _screening(experiment, measured).times(num_replicates(experiment)),
        "scores": _scores(experiment, measured).times(num_replicates(experiment)),
        "selection": choosing,
        "dataset": exporting,
    } | (compare_costs(experiment, measured) if experiment.compare else {})


def _examples(measured: Measured) -> Cost:
    pool = measured.pool
    token_bytes = 2 if pool.tokenizer.vocab_size <= 1 << 16 else 4
    return Cost(
        tokens=pool.tokens,
        seconds=pool.seconds_a_token * pool.tokens,
        disk=token_bytes * pool.tokens + LINE_BYTES * pool.documents + 20 * pool.rows,
        memory=measured.speed.base_bytes + 30 * pool.rows,
    )


def _topics(experiment: Experiment, measured: Measured) -> Cost:
    """Nothing where no scores are shrunk towards the means of their groups."""
    pool = measured.pool
    if not any(shrinkage_of(experiment.scores, method) for method in experiment.estimators):
        return Cost()
    candidates = max(num_candidates(experiment, pool), 1)
    read = min(candidates, MOST_TEXTS) * min(pool.tokens / candidates, MOST_TOKENS)
    return Cost(
        seconds=TOPICS_SECONDS_A_TOKEN * pool.tokens,
        disk=2 * candidates,
        memory=measured.speed.base_bytes + TOPICS_BYTES_A_TOKEN * read,
    )


def _proxies(experiment: Experiment, measured: Measured) -> Cost:
    proxies, speed = experiment.proxies, measured.speed
    pool_tokens = measured.pool.tokens
    tokens = proxies.count * proxies.share_of(pool_tokens) * proxies.epochs * pool_tokens
    batch = min(step_tokens(proxies.train, measured.pool), proxies.train.micro_batch_tokens)
    return Cost(
        tokens=tokens,
        seconds=tokens / speed.train,
        flops=3 * tokens * speed.flops_a_token,
        disk=4 * speed.parameters * proxies.num_checkpoints * (3 if proxies.moments else 1),
        memory=speed.base_bytes + 16 * speed.parameters + speed.activation_bytes * batch,
    )


def _directions(experiment: Experiment, measured: Measured) -> Cost:
    methods = experiment.estimators
    one_proxy = sum((_direction(name, experiment, measured) for name in methods), Cost())
    count = experiment.proxies.num_checkpoints
    return Cost(
        one_proxy.tokens * count,
        one_proxy.seconds * count,
        one_proxy.flops * count,
        one_proxy.disk * count,
        one_proxy.memory,
    )


def _direction(method: str, experiment: Experiment, measured: Measured) -> Cost:
    """One estimator for one proxy: targets, curvature, exact slopes on the calibration rows."""
    config, scores, speed = experiment.directions, experiment.scores, measured.speed
    layers = speed.layers
    num_directions = len(experiment.targets) * (1 + scores.per_example)
    row_tokens = measured.pool.tokens / measured.pool.rows
    cost, sample = _estimator_cost(method, experiment, measured, num_directions)
    sampled = cost.sample_passes * sample
    target_tokens = measured.targets.fit_tokens * (1 + scores.per_example / 9)
    # A gradient takes three passes, a row's factors two.
    gradient_tokens = target_tokens + FACTOR_PASSES / 3 * sampled
    wanted = _num_wanted(experiment)
    slope_passes = EXACT_PASSES * num_directions
    if scores_forward(scores, wanted):
        slope_passes += (EXACT_PASSES + FORWARD_PASSES * len(SHRINKS)) * wanted
    slope_tokens = slope_passes * scores.calibration_rows * row_tokens
    gradient_flops = 3 * speed.flops_a_token
    seconds = (
        gradient_tokens / speed.gradient
        + slope_tokens / speed.forward
        + cost.flops / (speed.gradient * gradient_flops)
        + speed.eigh_seconds * cost.cubes
    )
    batch = min(config.batch_tokens, max(sample, target_tokens)) * (
        speed.activation_bytes + 4 * layers.widths
    )
    exact_tokens = min(scores.batch_tokens, scores.calibration_rows * row_tokens)
    exact = exact_tokens * (LOGITS_HELD * 4 * speed.vocab_size + speed.activation_bytes)
    directions = (num_directions + 1) * 4 * layers.weights
    return Cost(
        tokens=target_tokens + sampled,
        seconds=seconds,
        flops=gradient_tokens * gradient_flops + slope_tokens * speed.flops_a_token + cost.flops,
        disk=(len(experiment.targets) + 1) * 4 * layers.weights,
        memory=speed.base_bytes
        + 4 * speed.parameters
        + directions
        + max(batch + cost.held_bytes, exact),
    )


def _estimator_cost(
    method: str, experiment: Experiment, measured: Measured, num_directions: int
) -> tuple[EstimatorCost, Number]:
    """What an estimator takes at one checkpoint, and the tokens of its sample."""
    config, pool = experiment.directions, measured.pool
    settings, row_tokens = estimator_settings(config, method), pool.tokens / pool.rows
    rows = min(settings.curvature_rows, pool.rows) if isinstance(settings, CurvatureConfig) else 0
    workload = Workload(
        measured.speed.layers.shapes,
        examples=rows,
        size=rows * row_tokens,
        batch_examples=min(config.batch_tokens / row_tokens, rows),
        num_directions=num_directions,
        replay=lambda functions, tail: _replay(experiment, measured, functions, tail),
    )
    return known_estimator(method).cost(settings, workload), rows * row_tokens


def _replay(
    experiment: Experiment, measured: Measured, num_directions: int, tail: float
) -> tuple[Number, Number]:
    """FLOPs to follow a proxy's training backwards, for each of its checkpoints, and bytes held."""
    proxies, speed = experiment.proxies, measured.speed
    tokens = proxies.share_of(measured.pool.tokens) * proxies.epochs * measured.pool.tokens
    a_step = step_tokens(proxies.train, measured.pool)
    steps = max(1.0, tokens / a_step)
    is_kept = keeps_all(tail * steps, speed.parameters)
    is_whole = a_step <= proxies.train.micro_batch_tokens
    passes = replay_passes(num_directions, tail, is_kept=is_kept, is_whole=is_whole)
    flops = passes * tokens * speed.flops_a_token / proxies.checkpoints
    # The states, and in fp64 the derivatives after and before a step, its own and their sums.
    num_states = tail * steps if is_kept else 2 * math.sqrt(tail * steps)
    states = STATE_BYTES * num_states
    derivatives = 8 * (num_directions * (7 + proxies.checkpoints) + 3)
    return flops, (states + derivatives) * speed.parameters


def _scores(experiment: Experiment, measured: Measured) -> Cost:
    config, speed, pool = experiment.scores, measured.speed, measured.pool
    wanted, num_methods = _num_wanted(experiment), len(experiment.estimators)
    forward = scores_forward(config, wanted)
    screening = _screening_of(experiment, measured)
    share = screening.share - _sampled_rows(experiment, measured) / pool.rows if screening else 1.0
    # Forward passes are each estimator's own; a backward pass serves all.
    tokens = (
        (num_methods if forward else 1) * experiment.proxies.num_checkpoints * share * pool.tokens
    )
    passes = FORWARD_PASSES * wanted if forward else BACKWARD_PASSES
    # A backward pass for scores reads at the speed of the directions' gradients.
    rate = speed.forward / passes if forward else 3 * speed.gradient / passes
    copies = 2 if forward else wanted * num_methods
    columns = num_methods * (1 + experiment.proxies.num_checkpoints * (wanted + 1))
    candidates = num_candidates(experiment, pool)
    activations = speed.activation_bytes * (0.3 if forward else 1.0)
    return Cost(
        tokens=passes * tokens,
        seconds=tokens / rate + SCORES_SECONDS_A_CANDIDATE * candidates,
        flops=passes * tokens * speed.flops_a_token,
        disk=2 * candidates * (LINE_BYTES + 4 * columns),
        memory=speed.base_bytes
        + 4 * speed.parameters
        + (copies + 1) * 4 * speed.layers.weights
        + min(config.batch_tokens, pool.tokens) * activations,
    )


def _screening(experiment: Experiment, measured: Measured) -> Cost:
    """The sample's exact scores; nothing where all of the pool is scored."""
    speed, pool = measured.speed, measured.pool
    if _screening_of(experiment, measured) is None:
        return Cost()
    rows = _sampled_rows(experiment, measured)
    points = experiment.proxies.num_checkpoints * len(experiment.estimators)
    tokens = FORWARD_PASSES * points * rows * pool.tokens / pool.rows
    table = tokens / FORWARD_PASSES * TABLE_BYTES
    return Cost(
        tokens=tokens,
        seconds=tokens / speed.forward,
        flops=tokens * speed.flops_a_token,
        disk=table,
        memory=speed.base_bytes + 3 * 4 * speed.parameters + 4 * table,
    )


def _screening_of(experiment: Experiment, measured: Measured) -> ScreeningConfig | None:
    pool = measured.pool
    return experiment.screening(num_candidates(experiment, pool), pool.tokens)


def _sampled_rows(experiment: Experiment, measured: Measured) -> Number:
    screening = _screening_of(experiment, measured)
    return min(screening.sample * measured.pool.rows, MOST_SAMPLED) if screening else 0


def _num_wanted(experiment: Experiment) -> int:
    """Directions that candidates are scored along, for each estimator and proxy."""
    return len(scored_targets([t.name for t in experiment.targets], experiment.scores))
