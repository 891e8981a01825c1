"""Figures: same data, same bytes, and nothing that leaves the page."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from dsdm.evaluation.intervals import Interval
from dsdm.reporting.sections.comparison import interval_plot
from dsdm.reporting.sections.scores import score_by_length, score_histogram


def histogram(name="h"):
    values = np.random.default_rng(0).normal(size=200)
    return score_histogram(name, "score", values, values[values > 1])


def by_length(longest):
    lengths = np.geomspace(10, longest, 5)
    return score_by_length("l", "score", lengths, np.cumsum(np.ones((5, 3)), axis=1))


INTERVALS = dict.fromkeys(["top", "bottom"], Interval(0.0, -1.0, 1.0))
FIGURES = {
    "histogram": histogram,
    "nothing selected": lambda: score_histogram("n", "score", np.arange(9.0), np.zeros(0)),
    "one score": lambda: score_histogram("c", "score", np.ones(9), np.ones(2)),
    "long and short": lambda: by_length(9000),
    "same length": lambda: by_length(11),
    "intervals": lambda: interval_plot("i", "t", INTERVALS),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
def test_a_figure_is_one_reproducible_svg(draw):
    svg = draw().svg
    assert svg == draw().svg
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "$" not in svg
    assert not re.search(r'(?:href|src)="(?!#)', svg)
    assert "<dc:date>" not in svg


def test_ids_of_two_figures_differ():
    ids = [set(re.findall(r'\bid="([^"]+)"', histogram(name).svg)) for name in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_references_are_to_ids_of_the_figure():
    svg = histogram().svg
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    references = re.findall(r'href="#([^"]+)"', svg) + re.findall(r"url\(#([^)]+)\)", svg)
    assert references
    assert set(references) <= ids


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    histogram()
    assert dict(mpl.rcParams) == before


def test_a_figure_has_what_it_shows_as_data():
    data = histogram().data
    assert len(data["edges"]) == 61
    assert data["shares"]["pool"].sum() == pytest.approx(1)
    assert FIGURES["intervals"]().data["intervals"] == INTERVALS
    assert {*by_length(11).data} == {"num_tokens", "low", "median", "high"}
