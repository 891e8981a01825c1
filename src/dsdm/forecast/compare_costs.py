"""What the stages of a comparison cost; of evaluating, that on the targets alone."""

import math

from dsdm.baselines import BASELINES, baseline_settings
from dsdm.evaluation.arms import Arm
from dsdm.experiment import Experiment
from dsdm.forecast.inputs import Cost, Measured, Number, budget_tokens, step_tokens
from dsdm.lm.config import TrainConfig

BASELINE_SECONDS_A_TOKEN = 2e-6
"""To decode the pool and count its words, once for each baseline."""


def num_replicates(experiment: Experiment) -> int:
    """How often proxies and scores are made."""
    compare = experiment.compare
    return compare.seeds if compare is not None and compare.new_proxies else 1


def compare_costs(experiment: Experiment, measured: Measured) -> dict[str, Cost]:
    """The cost of each stage of a comparison, in order."""
    assert experiment.compare is not None
    compare, arms = experiment.compare, experiment.compared_arms
    train = experiment.compared_training
    selected, pool = budget_tokens(experiment, measured.pool), measured.pool.tokens
    tokens = sum(
        pool * arm.budget * (arm.epochs or compare.epochs)
        if arm.kind == "all"
        else compare.epochs * arm.budget * selected
        for arm in arms
    )
    num_rates = len(compare.learning_rates)
    return {
        "baselines": _baselines(experiment, measured, arms).times(num_replicates(experiment)),
        "heldout": Cost(memory=measured.speed.base_bytes),
        "tuning": _training(train, measured, tokens * num_rates, 0),
        "models": _training(train, measured, tokens * compare.seeds, len(arms) * compare.seeds),
        "evaluations": _evaluations(measured, len(arms) * (compare.seeds + num_rates)),
    }


def _baselines(experiment: Experiment, measured: Measured, arms: list[Arm]) -> Cost:
    methods = {arm.method for arm in arms} & set(BASELINES)
    speed, pool_tokens = measured.speed, measured.pool.tokens
    proxies = experiment.proxies
    passes = sum(
        BASELINES[name].passes(
            baseline_settings(experiment.baselines, name), proxies.count, proxies.num_checkpoints
        )
        for name in methods
    )
    tokens = passes * pool_tokens
    return Cost(
        tokens=tokens,
        seconds=tokens / speed.forward + len(methods) * BASELINE_SECONDS_A_TOKEN * pool_tokens,
        flops=tokens * speed.flops_a_token,
        memory=speed.base_bytes + 4 * speed.parameters,
    )


def _training(train: TrainConfig, measured: Measured, tokens: Number, kept: int) -> Cost:
    """Of `tokens` tokens in all; `kept` models stay on disk."""
    speed, model = measured.speed, measured.compared
    slower = model.flops_a_token / speed.flops_a_token
    batch = min(step_tokens(train, measured.pool), train.micro_batch_tokens)
    return Cost(
        tokens=tokens,
        seconds=tokens / speed.train * slower,
        flops=3 * tokens * model.flops_a_token,
        disk=4 * model.parameters * kept,
        memory=speed.base_bytes
        + 16 * model.parameters
        + speed.activation_bytes * batch * math.sqrt(slower),
    )


def _evaluations(measured: Measured, count: int) -> Cost:
    speed, model = measured.speed, measured.compared
    tokens = count * measured.targets.evaluated_tokens
    return Cost(
        tokens=tokens,
        seconds=tokens / speed.forward * model.flops_a_token / speed.flops_a_token,
        flops=tokens * model.flops_a_token,
        memory=speed.base_bytes + 4 * model.parameters,
    )
