"""The page: hostile text stays inert, and nothing is fetched."""

import math
from html.parser import HTMLParser

import numpy as np
import pytest

from dsdm.evaluation.comparison import compare_losses
from dsdm.evaluation.report import (
    Calibration,
    ComparedTarget,
    Comparison,
    Excerpt,
    ExcerptGroup,
    Matrix,
    Report,
    Selected,
    SourceShare,
    StageCost,
    TargetOverlap,
    render_report,
    visible_text,
)

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)></p></details></style>"
    "<meta http-equiv=refresh content=0> \" onload='x' {{ 7*7 }} {% raw %} $\\frac{ \x00\u202e --> "
)


class Page(HTMLParser):
    """Every tag of a page with its attributes, and the text outside of style."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def hostile_report(**changes):
    excerpt = Excerpt(3, HOSTILE, HOSTILE, -1.5, 40, True, HOSTILE * 9)
    lines = compare_losses(
        {arm: {0: {HOSTILE: np.arange(4.0) * k}} for k, arm in enumerate(("random", "top"))}
    )
    parts = {
        "title": HOSTILE,
        "method": HOSTILE,
        "targets": [HOSTILE],
        "config": HOSTILE,
        "versions": {"numpy": "2"},
        "selected": Selected(1, 40, 10, 400),
        "comparisons": [Comparison("report", [ComparedTarget(HOSTILE, lines, None)], "note")],
        "sources": [SourceShare(HOSTILE, 1.0, 0.5, 1, 5, 0.25)],
        "excerpts": [ExcerptGroup("Best", [excerpt])],
        "matrices": [Matrix(HOSTILE, "all", "", [HOSTILE, "m.0.a"], np.full((2, 2), math.nan))],
        "calibrations": [Calibration("m", "0", HOSTILE, 1e-3, 0.999)],
        "counts": {"documents": 10},
        "rejections": {HOSTILE: 2},
        "overlaps": [TargetOverlap(HOSTILE, 9, 3, 2)],
        "costs": [StageCost("scores", 1, 2.5, 1e12)],
    }
    return Report(**parts | changes)


def test_hostile_text_makes_no_element_and_no_attribute():
    page = Page(render_report(hostile_report()))
    benign = Page(render_report(hostile_report()).replace("alert", ""))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "iframe", "object", "form"})
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in benign.tags]
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "srcset")]
    assert sum(tag == "meta" for tag, _ in page.tags) == 4


def test_hostile_text_is_shown_as_it_is():
    text = Page(render_report(hostile_report())).text
    assert "<script>alert(1)</script>" in text
    assert "{{ 7*7 }}" in text
    assert "\\u0000\\u202e" in text


def test_hostile_text_leaves_no_control_character():
    page = render_report(hostile_report())
    assert "\x00" not in page
    assert "\u202e" not in page


def test_the_page_refers_to_itself_alone():
    page = Page(render_report(hostile_report()))
    links = [attributes["href"] for _, attributes in page.tags if "href" in attributes]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link.removeprefix("#") for link in links if link != "data:,"} <= ids
    style = render_report(hostile_report()).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_forbids_scripts_and_requests():
    page = Page(render_report(hostile_report()))
    policies = [a["content"] for _, a in page.tags if "Policy" in (a.get("http-equiv") or "")]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; style-src 'unsafe-inline';")


def test_a_run_without_scores_has_a_page():
    report = Report(title="r", method="m", targets=["a"], config="run: r", versions={})
    assert "Nothing is selected yet" in render_report(report)


def test_the_same_data_give_the_same_page():
    assert render_report(hostile_report()) == render_report(hostile_report())


def test_long_text_is_cut_and_the_rest_is_one_click_away():
    excerpt = Excerpt(0, "id", "web", 1.0, 99, True, "a" * 300 + "b" * 50)
    page = render_report(hostile_report(excerpts=[ExcerptGroup("Best", [excerpt])]))
    assert f"{'a' * 300}…</p>" in page
    assert f'<details><summary>More</summary><p class="text" dir="auto">…{"b" * 50}' in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [("tab\tand\nline", "tab\tand\nline"), ("\x07", "\\u0007"), ("abcdef", "abc…")],
)
def test_invisible_characters_are_spelled_out(text, shown):
    assert visible_text(text, 3 if text == "abcdef" else None) == shown


def test_a_source_that_is_not_in_the_pool_has_no_ratio():
    assert math.isnan(SourceShare("a", 0.0, 0.0, 0, 0, 0.0).ratio)
