"""The page: hostile text stays inert, and nothing is fetched."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest

from dsdm.reporting.page import Header, Page, plain_data, render_page
from dsdm.reporting.section import SECTIONS, section
from dsdm.reporting.sections.sources import SourceShare
from dsdm.reporting.text import (
    cut_to_bytes,
    number,
    page_bytes,
    ratio_shade,
    shade,
    visible_text,
)
from tests.reporting.hostile_pages import HOSTILE, browser, example, hostile_data, hostile_page


class Parsed(HTMLParser):
    """Every tag of a page with its attributes, and the text outside of style and script."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page():
    return render_page(hostile_page())


def test_hostile_text_makes_no_element_and_no_attribute(page):
    found = Parsed(page)
    benign = Parsed(page.replace("alert", ""))
    tags = [tag for tag, _ in found.tags]
    assert set(tags).isdisjoint({"img", "iframe", "object", "form"})
    assert tags.count("script") == 1
    assert tags == [tag for tag, _ in benign.tags]
    names = {name for _, attributes in found.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "srcset")]
    assert tags.count("meta") == 4


def test_hostile_text_is_shown_as_it_is(page):
    text = Parsed(page).text
    assert "<script>alert(1)</script>" in text
    assert "{{ 7*7 }}" in text
    assert "\\u0000\\u202e" in text


def test_hostile_text_leaves_no_control_character(page):
    assert "\x00" not in page
    assert "\u202e" not in page


def test_the_page_refers_to_itself_alone(page):
    found = Parsed(page)
    links = [attributes["href"] for _, attributes in found.tags if "href" in attributes]
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    references = [a["xlink:href"] for _, a in found.tags if "xlink:href" in a]
    assert {link.removeprefix("#") for link in [*links, *references] if link != "data:,"} <= {*ids}
    assert len(ids) == len(set(ids))
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_one_script_and_no_request(page):
    found = Parsed(page)
    policies = [a["content"] for _, a in found.tags if "Policy" in (a.get("http-equiv") or "")]
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[-1].encode()).digest()).decode()
    assert policies == [
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    ]


def test_a_page_without_examples_allows_no_script_at_all():
    page = render_page(hostile_page(examples=None))
    assert "<script" not in page
    assert "script-src" not in page


def test_a_run_that_selected_nothing_has_a_page():
    page = render_page(Page(Header("r", "m", ["a"], {}, None), [(SECTIONS["config"], "run: r")]))
    assert "Nothing is selected yet" in page
    assert re.findall(r'<section id="(\w+)"', page) == ["config"]


def test_every_section_that_has_data_is_linked(page):
    sections = re.findall(r'<section id="(\w+)"', page)
    assert re.findall(r'<a href="#(\w+)"', page) == sections
    assert {*sections} == {*hostile_data()}


def test_each_example_is_shown_once_in_the_first_group_that_has_it(page):
    groups = page.partition('<div id="groups">')[2].split('<details class="group"')[1:]
    assert [re.findall(r'<span class="id">(id\d+) ', group) for group in groups] == [
        ["id0", "id1", "id2", "id3"],
        ["id4"],
    ]


def test_the_same_data_give_the_same_page(page):
    assert render_page(hostile_page()) == page


def test_long_text_is_cut_and_the_rest_is_one_click_away():
    shown = example(0, excerpt="a" * 300 + "…", text="a" * 300 + "b" * 50, is_cut=True)
    page = render_page(hostile_page(examples=browser() | {"examples": [shown]}))
    assert f"{'a' * 300}…</p>" in page
    assert f'<summary>As much as fits</summary><p class="text" dir="auto">{"a" * 300}' in page
    assert f"{'b' * 50}…</p></details>" in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [("tab\tand\nline", "tab\tand\nline"), ("\x07", "\\u0007"), ("abcdef", "abc…")],
)
def test_invisible_characters_are_spelled_out(text, shown):
    assert visible_text(text, 3 if text == "abcdef" else None) == shown


@pytest.mark.parametrize("text", ["", "plain", "<" * 50, "\x00" * 20, "日本語" * 9, HOSTILE * 3])
@pytest.mark.parametrize("limit", [0, 7, 100, 10_000])
def test_cut_text_is_a_start_that_fits(text, limit):
    cut = cut_to_bytes(text, limit)
    assert text.startswith(cut)
    assert page_bytes(cut) <= limit
    assert cut == text or page_bytes(text) > limit


def test_a_source_that_is_not_in_the_pool_has_no_ratio():
    assert math.isnan(SourceShare("a", 0.0, 0.0, 0, 0, 0.0).ratio)


def test_colours_say_which_way_and_how_much():
    assert shade(0.5, 1.0) == "rgba(37, 99, 235, 0.30)"
    assert shade(-9.0, 1.0) == "rgba(234, 88, 12, 0.60)"
    assert shade(math.nan) == ratio_shade(0.5, 0.0) == "transparent"
    assert ratio_shade(0.0, 0.5) == ratio_shade(0.01, 0.5) == "rgba(234, 88, 12, 0.60)"


def test_a_small_negative_number_is_no_negative_zero():
    assert number(-0.001, 2) == "0.00"


def test_everything_on_the_page_is_there_as_plain_data():
    data = json.loads(json.dumps(plain_data(hostile_data()), allow_nan=False))
    assert data["config"] == HOSTILE
    curves = data["compute"][0]["targets"][0]["figure"]["data"]["curves"]
    assert [curve["name"] for curve in curves] == ["random", "m", f"m:{HOSTILE}"]
    assert curves[0]["lows"][1] is None
    assert data["transfer"][0]["matrices"][0]["rows"] == [HOSTILE, "b", "all targets"]
    assert data["examples"]["examples"][0]["checkpoint_scores"] == [[None, 1.0], [None, 2.0]]
    assert data["chosen"]["overlap"]["by_chance"] == [0.3, 0.2]


def test_data_for_the_page_alone_are_no_plain_data():
    data = plain_data(hostile_data())
    assert "svg" not in data["scores"]["figures"][0]
    assert "text" not in data["examples"]["examples"][0]
    with pytest.raises(TypeError, match="set is no plain data"):
        plain_data({"a": {1}})


def test_a_section_without_its_template_or_with_an_odd_name_is_refused():
    with pytest.raises(ValueError, match=r"not_there\.html\.j2 is not there"):
        section("not_there", order=1, title="t")(lambda run: None)
    with pytest.raises(ValueError, match="letters, digits"):
        section("../x", order=1, title="t")
