"""The report's figures and tables as plain data."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def plain_data(value: object) -> Any:
    """`value` as JSON holds it: dataclasses as objects, arrays as lists, NaN as null.

    Fields that are for the page alone are left out.

    Raises:
        TypeError: something in it is no plain data.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if not f.metadata.get("page_only")]
        return {field.name: plain_data(getattr(value, field.name)) for field in fields}
    if isinstance(value, np.ndarray | np.generic):
        return plain_data(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain_data(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [plain_data(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no plain data")
