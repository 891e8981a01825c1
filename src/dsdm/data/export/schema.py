"""One set of columns for records of many files."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dsdm.data.export.chosen import SCORE, Chosen
from dsdm.data.files import pool_error


def common_schema(chosen: Chosen) -> pa.Schema:
    """Columns that hold the records of every pool file, the score last.

    Raises:
        DataError: two files have a column of the same name that no type holds.
    """
    common = pa.schema([])
    files: list[str] = []
    for file in chosen.files():
        schema = next(file.records()).schema
        files.append(file.url)
        common = _unify(common, schema, files)
    fields = [field for field in common if field.name != SCORE]
    return pa.schema([*fields, common.field(SCORE)])


def cast_records(chosen: Chosen, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """All records with the columns of `schema`; those a file lacks are null.

    Raises:
        DataError: a value would change.
    """
    for file in chosen.files():
        for batch in file.records():
            columns = [_cast(batch, field, file.url) for field in schema]
            yield pa.record_batch(columns, schema=schema)


def _unify(common: pa.Schema, schema: pa.Schema, files: Sequence[str]) -> pa.Schema:
    try:
        return pa.unify_schemas([common, schema], promote_options="permissive")
    except pa.ArrowException as error:
        raise pool_error(
            f"{files[-1]}: has a column of another type than the {len(files) - 1} files before it "
            f"({error}). One Parquet dataset can't hold both: export with format jsonl, or make "
            "the columns the same."
        ) from error


def _cast(batch: pa.RecordBatch, field: pa.Field, file: str) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(field.name)
    if column.type == field.type:
        return column
    try:
        return pc.cast(column, field.type)
    except pa.ArrowException as error:
        raise pool_error(
            f"{file}: column `{field.name}` can't be written as {field.type}, which other files of "
            f"the pool need ({error}). Export with format jsonl, or make the columns the same."
        ) from error
