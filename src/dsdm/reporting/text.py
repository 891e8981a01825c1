"""How values and the pool's text are written in the report."""

import math
import re

from markupsafe import escape

from dsdm.evaluation.curve import Bounded
from dsdm.evaluation.multiplier import trainings_text

MINUS = "\N{MINUS SIGN}"
NO_VALUE = "\N{EN DASH}"
# Control characters, and those that turn the direction of the text after them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\ufeff]"
)


def visible_text(text: str, longest: int | None = None) -> str:
    """`text` with invisible characters spelled out, cut to `longest` characters.

    Markup is not escaped here: the template does that.
    """
    if longest is not None and len(text) > longest:
        text = text[:longest] + "…"
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def page_bytes(text: str) -> int:
    """Bytes that `text` takes in the page, with markup escaped."""
    return len(str(escape(visible_text(text))).encode("utf-8", "replace"))


def cut_to_bytes(text: str, limit: int) -> str:
    """The start of `text` that takes at most `limit` bytes in the page, or almost as many."""
    while (size := page_bytes(text)) > limit:
        # At least one character goes, so that this ends.
        text = text[: min(len(text) - 1, int(len(text) * limit / size))]
    return text


def number(value: int | float, digits: int = 0) -> str:
    """With thousands set apart; a dash for NaN."""
    if math.isnan(value):
        return NO_VALUE
    # Adding zero turns -0.0 into 0.0.
    return f"{round(value, digits) + 0:,.{digits}f}".replace("-", MINUS)


def signed(value: float) -> str:
    """Four digits and always a sign; a dash for NaN."""
    return NO_VALUE if math.isnan(value) else f"{value:+.4f}".replace("-", MINUS)


def percent(share: int | float) -> str:
    """One digit of a percentage; a dash for NaN."""
    return NO_VALUE if math.isnan(share) else f"{100 * share:.1f}%"


def flops(value: int | float) -> str:
    """As a power of ten; a dash for none."""
    return f"{value:.2e}".replace("e+", "e") if value else NO_VALUE


def bounded(figure: Bounded | None, digits: int = 2) -> str:
    """A figure with the sign of its bound; a dash for none."""
    if figure is None:
        return NO_VALUE
    return figure.text(digits).replace(">=", "≥").replace("<=", "≤")


def trainings(figure: Bounded) -> str:
    """A number of trainings, `never`, or `unknown`."""
    return trainings_text(figure).replace(">=", "≥").replace("<=", "≤")


def shade(value: float, largest: float = 1.0) -> str:
    """A cell's background: blue above zero, orange below, full at `largest`."""
    if math.isnan(value):
        return "transparent"
    colour = "37, 99, 235" if value > 0 else "234, 88, 12"
    return f"rgba({colour}, {0.6 * min(1.0, abs(value) / largest):.2f})"


def ratio_shade(share: float, of: float) -> str:
    """A cell's background: blue where `share` is above `of`, orange below, full at eight times."""
    if not of:
        return "transparent"
    return shade(math.log2(share / of) if share else -3.0, 3.0)
