"""What a run will cost on this machine, from a short calibration: `dsdm run --dry-run`."""

from dsdm.forecast.forecast import forecast

__all__ = ["forecast"]
