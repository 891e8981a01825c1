"""The selection as a dataset that training code reads."""

from dsdm.data.export.dataset import ExportConfig, export_dataset, require_writer

__all__ = ["ExportConfig", "export_dataset", "require_writer"]
