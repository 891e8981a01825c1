"""Choosing candidates by their scores, within a budget."""

from dsdm.selection.greedy import select
from dsdm.selection.rules import SelectionConfig
from dsdm.selection.scores import Scores

__all__ = ["Scores", "SelectionConfig", "select"]
