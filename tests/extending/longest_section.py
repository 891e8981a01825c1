"""A section of the report from outside of the project."""

from dsdm.reporting.section import section
from dsdm.reporting.view import RunView


@section("longest", order=55, title="Longest documents")
def longest(run: RunView) -> list[int] | None:
    """The lengths of the longest candidates, in tokens."""
    return sorted(run.scores.num_tokens.tolist(), reverse=True)[:3] if run.scores else None
