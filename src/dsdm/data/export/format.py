"""What an export format is, and the formats there are."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dsdm.registry import Registry

if TYPE_CHECKING:
    from dsdm.data.export.chosen import Chosen
    from dsdm.data.export.dataset import ExportConfig


class ExportFormat:
    """Writes chosen candidates as files."""

    name: ClassVar[str]
    reads_pool: ClassVar[bool] = False
    """Whether the files of the pool are read again, for the columns of whole documents."""

    def require(self) -> None:
        """Raises ConfigError where a package is needed that is not installed."""

    def write(self, chosen: "Chosen", config: "ExportConfig", folder: Path) -> None:
        """Writes the chosen candidates into an empty folder, in the order of the pool.

        The same choice must write the same bytes.
        """
        raise NotImplementedError


EXPORT_FORMATS: Registry[ExportFormat] = Registry("dsdm.export_formats")
"""The formats by their names."""


def export_format(name: str) -> Callable[[type[ExportFormat]], type[ExportFormat]]:
    """A decorator that registers a format."""

    def register(cls: type[ExportFormat]) -> type[ExportFormat]:
        cls.name = name
        EXPORT_FORMATS.add(name, cls())
        return cls

    return register
