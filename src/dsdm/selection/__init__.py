"""Choosing candidates by their scores, within a budget."""

from dsdm.selection.greedy import choose, select
from dsdm.selection.rules import SelectionConfig, budget_of, decides_by_score, selected_tokens
from dsdm.selection.scores import Scores, concat_scores

__all__ = [
    "Scores",
    "SelectionConfig",
    "budget_of",
    "choose",
    "concat_scores",
    "decides_by_score",
    "select",
    "selected_tokens",
]
