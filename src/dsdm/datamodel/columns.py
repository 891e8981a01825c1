"""The columns of scores, typed: whose score, at which checkpoint, for what.

In a Parquet file the identity stands in the field's metadata; the field's name is for people.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa

from dsdm.datamodel.config import MIX

KEY = b"dsdm.score"


@dataclass(frozen=True, order=True)
class ScoreColumn:
    """One column of scores."""

    estimator: str
    """An estimator, or a baseline."""
    checkpoint: int | None = None
    """The number of a proxy's checkpoint; None: all of them combined."""
    target: str = MIX
    """A target's name, that of one of its examples, or MIX."""
    is_example: bool = False
    """Whether `target` is a single example."""
    predicted: bool = False
    """Not a score, but whether a candidate's scores were predicted and not computed."""

    def __str__(self) -> str:
        if self.predicted:
            return f"{self.estimator}.predicted"
        if self.checkpoint is None:
            return self.estimator
        return f"{self.estimator}.{self.checkpoint}.{self.target}"


def score_field(column: ScoreColumn, kind: pa.DataType) -> pa.Field:
    """The field of a column in a Parquet file."""
    return pa.field(str(column), kind, metadata={KEY: json.dumps(asdict(column))})


def score_columns(schema: pa.Schema) -> list[ScoreColumn]:
    """The columns of scores in a Parquet file, in their order."""
    found = [field.metadata.get(KEY) for field in schema if field.metadata]
    return [ScoreColumn(**json.loads(about)) for about in found if about is not None]


def append_columns(table: pa.Table, columns: Iterable[tuple[ScoreColumn, pa.Array]]) -> pa.Table:
    """The table with columns of scores behind its own."""
    for column, values in columns:
        table = table.append_column(score_field(column, values.type), values)
    return table
