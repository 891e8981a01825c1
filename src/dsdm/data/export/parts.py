"""Records in files of a given number of them."""

from collections.abc import Iterator

import pyarrow as pa


def cut_parts(
    batches: Iterator[pa.RecordBatch], shard_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each batch with the number of the file it goes to; one that crosses an end is cut there."""
    num_rows = 0
    for batch in batches:
        rest = batch
        while rest.num_rows:
            part, used = divmod(num_rows, shard_rows)
            head = rest.slice(0, shard_rows - used)
            yield part, head
            num_rows += head.num_rows
            rest = rest.slice(head.num_rows)
