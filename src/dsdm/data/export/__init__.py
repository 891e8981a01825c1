"""The selection as a dataset that training code reads: one module for each format."""

# Importing a module registers its formats.
from dsdm.data.export import jsonl, mds, megatron, parquet
from dsdm.data.export.chosen import Chosen, ChosenShard
from dsdm.data.export.dataset import ExportConfig, ExportCounts, export, require_writer
from dsdm.data.export.format import EXPORT_FORMATS, ExportFormat, export_format

__all__ = [
    "EXPORT_FORMATS",
    "Chosen",
    "ChosenShard",
    "ExportConfig",
    "ExportCounts",
    "ExportFormat",
    "export",
    "export_format",
    "jsonl",
    "mds",
    "megatron",
    "parquet",
    "require_writer",
]
