"""What a section of the report is, and the sections there are."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsdm.registry import Registry
from dsdm.reporting.view import RunView

Collect = Callable[[RunView], Any]
"""The data that a section shows: dataclasses, arrays, mappings, sequences and plain values; None
where the run has nothing to show, which leaves the section out."""

PAGE_ONLY = {"page_only": True}
"""Metadata of a dataclass's field that is shown in the page and left out of `figures.json`."""


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    name: str
    """Its key in `figures.json` and its anchor in the page."""
    title: str
    order: int
    """Sections stand in rising order."""
    collect: Collect
    template: Path
    """Shows what is collected, as `data`."""

    @property
    def script(self) -> str:
        """JavaScript that the section needs, from the file beside its template; mostly empty."""
        path = self.template.with_name(f"{self.name}.js")
        return path.read_text(encoding="utf-8") if path.is_file() else ""


SECTIONS: Registry[Section] = Registry("dsdm.report_sections")
"""The sections by their names."""


def section(name: str, *, order: int, title: str) -> Callable[[Collect], Collect]:
    """A decorator that registers what collects a section's data.

    Args:
        name: Also of the template, `NAME.html.j2` in the folder of the function's module.
        order: Where it stands in the page; the project's own are multiples of ten.
        title: Its heading.

    Raises:
        ValueError: the name is none, or there is no such template.
    """
    if not name.isidentifier():
        raise ValueError(f"section {name!r}: its name must be letters, digits and `_`")

    def register(collect: Collect) -> Collect:
        module = sys.modules[collect.__module__].__file__
        assert module is not None
        template = Path(module).with_name(f"{name}.html.j2")
        if not template.is_file():
            raise ValueError(f"section {name!r}: {template} is not there")
        SECTIONS.add(name, Section(name, title, order, collect, template))
        return collect

    return register
