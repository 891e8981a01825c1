"""The scores file: one line a candidate, with where it is from and what every method says of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from dsdm.data.examples import Examples, Shard
from dsdm.errors import ArtifactError
from dsdm.selection import Scores

SCORES = "scores.parquet"
PROVENANCE = ("candidate", "id", "source", "file", "file_row", "num_tokens")


def scores_table(
    examples: Examples, shard: Shard, row_scores: Mapping[str, np.ndarray], method: str
) -> pa.Table:
    """One line for each candidate of `shard`.

    Columns: provenance; `score`, that of the selecting method; each METHOD, the mean of its
    proxies' scores for the mix; and each METHOD.PROXY.TARGET, in units of that direction's spread.

    Args:
        examples: The pool.
        shard: The part of it that was scored.
        row_scores: Scores of the shard's rows, by METHOD.PROXY.TARGET.
        method: The selecting method.
    """
    rows = slice(shard.first_row, shard.first_row + shard.num_rows)
    candidates = examples.candidate_of_row[rows] - shard.first_candidate
    # A row of n tokens has n - 1 predictions.
    weights = np.maximum(examples.lengths[rows] - 1, 1).astype(np.float64)
    columns = {
        name: weighted_mean(values, weights, candidates, shard.num_candidates)
        for name, values in row_scores.items()
    }
    table = examples.candidates_table(shard)
    combined = combine_proxies(columns)
    for name, values in ({"score": combined[method]} | combined | columns).items():
        table = table.append_column(name, pa.array(values.astype(np.float32)))
    return table


def combine_proxies(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean over proxies of each method's scores for the mix, by method."""
    by_method: dict[str, list[np.ndarray]] = {}
    for name, values in columns.items():
        method, _, target = name.split(".", 2)
        if target == "mix":
            by_method.setdefault(method, []).append(values)
    return {method: np.mean(values, axis=0) for method, values in by_method.items()}


def weighted_mean(
    values: np.ndarray, weights: np.ndarray, groups: np.ndarray, num_groups: int
) -> Float[np.ndarray, " groups"]:
    """The weighted mean of each group's values; 0 for a group without any."""
    total = np.bincount(groups, weights, num_groups)
    sums = np.bincount(groups, values * weights, num_groups)
    return np.divide(sums, total, out=np.zeros(num_groups), where=total > 0)


def merge_scores(shards: Sequence[Path], path: Path) -> int:
    """Writes the shards' score files as one, streaming; returns the number of lines."""
    writer = None
    num_lines = 0
    for shard in shards:
        for table in _read(shard / SCORES):
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            num_lines += len(table)
    if writer is not None:
        writer.close()
    return num_lines


def load_scores(path: Path, method: str, fingerprint: str) -> Scores:
    """The scores of one method, or of one METHOD.PROXY.TARGET, in a scores file."""
    try:
        table = pq.read_table(path, columns=["source", "num_tokens", method])
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path}: scores of {method!r} can't be read ({error}).") from error
    sources = table["source"].combine_chunks().dictionary_encode()
    return Scores(
        values=table[method].to_numpy(),
        num_tokens=table["num_tokens"].to_numpy().astype(np.int64),
        sources=sources.indices.to_numpy().astype(np.int32),
        source_names=tuple(sources.dictionary.to_pylist()),
        method=method,
        target="mix",
        fingerprint=fingerprint,
    )


def _read(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 16):
            yield pa.Table.from_batches([batch])
