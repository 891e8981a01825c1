"""Kinds of files that a pool may consist of: one module each, registered by its name."""

# Importing a module registers its formats.
from dsdm.data.formats import arrow, jsonl, parquet, text
from dsdm.data.formats.format import (
    FORMATS,
    PIECE_BYTES,
    Fields,
    Format,
    Record,
    Unreadable,
    excerpt_of,
    format,
    suffixes,
)

__all__ = [
    "FORMATS",
    "PIECE_BYTES",
    "Fields",
    "Format",
    "Record",
    "Unreadable",
    "arrow",
    "excerpt_of",
    "format",
    "jsonl",
    "parquet",
    "suffixes",
    "text",
]
