"""What a forecast counts in, and what it goes by."""

from dataclasses import dataclass

from dsdm.experiment import Experiment
from dsdm.forecast.calibration import Speed
from dsdm.forecast.pool_sample import PoolSample
from dsdm.lm.config import TrainConfig
from dsdm.selection.rules import selected_share

Number = int | float


@dataclass(frozen=True)
class Cost:
    """Of one stage or several; memory is the largest."""

    tokens: Number = 0.0
    seconds: Number = 0.0
    flops: Number = 0.0
    disk: Number = 0.0
    memory: Number = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            self.flops + other.flops,
            self.disk + other.disk,
            max(self.memory, other.memory),
        )

    def times(self, count: int) -> "Cost":
        """The cost of doing it `count` times, one after another."""
        return Cost(
            self.tokens * count,
            self.seconds * count,
            self.flops * count,
            self.disk * count,
            self.memory,
        )

    def share(self, share: Number) -> "Cost":
        """The cost of a part of the work; its memory is needed as long as any is left."""
        return Cost(
            self.tokens * share,
            self.seconds * share,
            self.flops * share,
            self.disk * share,
            self.memory if share else 0.0,
        )


@dataclass(frozen=True)
class TargetCounts:
    """Rows and tokens of all targets."""

    fit_rows: Number
    fit_tokens: Number
    evaluated_tokens: Number
    """In the parts that the comparison looks at."""
    seconds: Number
    """To read and tokenize them all."""


@dataclass(frozen=True)
class ComparedModel:
    """The model of the comparison, which is not timed by itself."""

    parameters: int
    flops_a_token: Number


@dataclass(frozen=True)
class Measured:
    """What the counting goes by."""

    pool: PoolSample
    speed: Speed
    compared: ComparedModel
    targets: TargetCounts
    overlap_seconds: Number
    """To look for shared words in one token of the pool."""


def budget_tokens(experiment: Experiment, pool: PoolSample) -> Number:
    """Tokens that will be selected."""
    candidates = num_candidates(experiment, pool)
    return selected_share(experiment.selection, candidates, pool.tokens) * pool.tokens


def num_candidates(experiment: Experiment, pool: PoolSample) -> Number:
    """Candidates in the pool."""
    return pool.rows if experiment.examples.unit == "row" else pool.documents


def step_tokens(train: TrainConfig, pool: PoolSample) -> Number:
    """Tokens in one step of a training on the pool."""
    if train.batch_rows is None:
        return train.batch_tokens
    return train.batch_rows * pool.tokens / pool.rows
