"""The page in a real browser: it renders, stays silent, asks for nothing, and can be searched."""

from pathlib import Path

import pytest

from dsdm.reporting.page import render_page
from tests.reporting.browser import CHROMIUM, Browser
from tests.reporting.hostile_pages import HOSTILE, hostile_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

CARDS = "[...document.querySelectorAll('#examples article')]"
SHOWN = f"{CARDS}.filter(card => card.checkVisibility())"
NUMBERS = f"{SHOWN}.map(card => card.textContent.match(/id(\\d+)/)[1]).join(' ')"
RESULT = "document.getElementById('shown').textContent"


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(hostile_page()), encoding="utf-8")
    return path


def choose(browser: Browser, control: str, value: str) -> None:
    browser.evaluate(
        f"(() => {{ const it = document.getElementById('{control}'); it.value = '{value}';"
        " it.dispatchEvent(new Event('input')); })()"
    )


def png_width(png: bytes) -> int:
    return int.from_bytes(png[16:20], "big")


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_its_window_whatever_the_words(browser, page, tmp_path, width, dark):
    path = tmp_path / "long.html"
    path.write_text(page.read_text(encoding="utf-8").replace("alert", "W" * 60), encoding="utf-8")
    browser.open(path, width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("document.querySelector('h1').getBoundingClientRect().height") > 10
    colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(22, 24, 27)" if dark else "rgb(255, 255, 255)")
    assert png_width(browser.screenshot(x=0, y=0, width=width, height=900)) == width


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_hostile_text_stays_inert(browser, page, width, script):
    browser.open(page, width, script=script)
    browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    browser.screenshot()
    assert browser.problems == []
    assert browser.requests == []
    assert browser.evaluate("document.querySelectorAll('img, iframe, object, form').length") == 0
    assert browser.evaluate("document.scripts.length") == 1
    text = browser.evaluate(f"{SHOWN}[0].querySelector('.whole .text').textContent")
    assert text == "number0 " + HOSTILE.replace("\x00\u202e", "\\u0000\\u202e") * 9


def test_examples_can_be_read_without_the_script(browser, page):
    browser.open(page, 1400, script=False)
    assert browser.evaluate(NUMBERS) == "0 1 2 3"
    assert not browser.evaluate("document.getElementById('controls').checkVisibility()")
    browser.evaluate("document.querySelectorAll('.group').forEach(part => part.open = true)")
    assert browser.evaluate(NUMBERS) == "0 1 2 3 4"


def test_groups_are_filtered_in_their_own_order(browser, page):
    browser.open(page, 1400)
    assert browser.evaluate(NUMBERS) == "0 1 2 3"
    choose(browser, "group", "1")
    assert browser.evaluate(NUMBERS) == "3 2 1 0"
    choose(browser, "group", "2")
    assert browser.evaluate(NUMBERS) == "4 1"
    assert browser.evaluate(RESULT) == "2 of 5"
    choose(browser, "group", "")
    assert browser.evaluate(NUMBERS) == "0 1 2 3 4"


@pytest.mark.parametrize(
    ("column", "order"),
    [
        ("0", "0 1 2 3 4"),  # score
        ("1", "4 3 2 1 0"),  # length
        ("id", "0 1 2 3 4"),
        ("source", "0 1 2 3 4"),  # all the same
        ("2", "0 1 2 3 4"),  # no score for that target
        ("3", "4 3 2 1 0"),  # the mix
    ],
)
def test_examples_are_sorted_by_a_column(browser, page, column, order):
    browser.open(page, 1400)
    choose(browser, "group", "")
    choose(browser, "sort", column)
    assert browser.evaluate(NUMBERS) == order
    browser.evaluate("document.getElementById('reversed').click()")
    is_tied = column in ("source", "2")
    assert browser.evaluate(NUMBERS) == (order if is_tied else order[::-1])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("NUMBER3", "3"),
        ("id2", "2"),
        ("<script>ALERT", "0 1 2 3 4"),
        ("number1 <SCRIPT", "1"),
        (".*", ""),
        ("no such text", ""),
    ],
)
def test_search_finds_plain_substrings(browser, page, wanted, found):
    browser.open(page, 1400)
    choose(browser, "group", "")
    choose(browser, "search", wanted)
    assert browser.evaluate(NUMBERS) == found
    assert browser.evaluate(RESULT) == f"{len(found.split())} of 5"
    assert browser.problems == []


def test_what_a_page_without_a_policy_does_is_seen(tmp_path: Path):
    path = tmp_path / "loose.html"
    path.write_text("<script>console.log('hello')</script><img src='http://127.0.0.1:9/x.png'>")
    with Browser() as browser:
        browser.open(path, 400)
        assert browser.requests == ["http://127.0.0.1:9/x.png"]
        assert any("hello" in problem for problem in browser.problems)


def test_the_policy_stops_what_escaping_would_let_through(tmp_path: Path, page):
    broken = page.read_text(encoding="utf-8").replace(
        "<main>",
        "<main><script>document.title = 'owned'</script><img src='http://127.0.0.1:9/x.png'>"
        "<p onclick='1' id=press>press</p>",
        1,
    )
    path = tmp_path / "broken.html"
    path.write_text(broken, encoding="utf-8")
    with Browser() as browser:
        browser.open(path, 1400)
        browser.evaluate("document.getElementById('press').click()")
        assert browser.evaluate("document.title") != "owned"
        assert browser.requests == []
        blocked = [problem for problem in browser.problems if "Content Security Policy" in problem]
    assert len(blocked) >= 3
