"""Choosing candidates by their scores, within a budget."""

from dsdm.selection.greedy import select
from dsdm.selection.rules import SelectionConfig, budget_of, decides_by_score
from dsdm.selection.scores import Scores, concat_scores

__all__ = [
    "Scores",
    "SelectionConfig",
    "budget_of",
    "concat_scores",
    "decides_by_score",
    "select",
]
