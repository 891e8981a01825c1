"""How scores are distributed, and what they go with."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from dsdm.data.examples import counted_lengths
from dsdm.evaluation.correlations import rank_correlations
from dsdm.reporting.figures import POOL_COLOUR, SELECTED_COLOUR, Figure, draw_svg
from dsdm.reporting.screened import screened_selection
from dsdm.reporting.section import section
from dsdm.reporting.sections.agreement import sampled_candidates
from dsdm.reporting.view import RunView

LENGTH_BINS = 20


@section("scores", order=70, title="Scores")
def scores(run: RunView) -> dict[str, Any] | None:
    """The distribution of scores, and scores by length where lengths differ."""
    if run.scores is None:
        return None
    values, lengths = run.scores.values, run.scores.num_tokens
    is_cosine = run.experiment.scores.cosine
    axis = "cosine" if is_cosine else "score"
    figures = [score_histogram("scores", axis, values, values[run.selected])]
    bins = list(_length_bins(lengths))
    if len(bins) > 2:
        medians = np.array([np.median(lengths[rows]) for rows in bins])
        quantiles = np.stack([np.quantile(values[rows], [0.1, 0.5, 0.9]) for rows in bins])
        figures.append(score_by_length("lengths", axis, medians, quantiles))
    sample = sampled_candidates(run)

    def correlation_with(other: np.ndarray) -> float:
        return float(rank_correlations([values[sample], other[sample].astype(float)])[0, 1])

    completions = counted_lengths(run.examples)
    screened = screened_selection(run)
    return {
        "is_cosine": is_cosine,
        "figures": figures,
        "length_correlation": correlation_with(lengths),
        # With what is learned of a conversation.
        "completion_correlation": (None if completions is None else correlation_with(completions)),
        "screened": screened.text if screened else "",
    }


def score_histogram(
    name: str,
    axis: str,
    pool: Float[np.ndarray, " pool"],
    selected: Float[np.ndarray, " selected"],
) -> Figure:
    """Distributions of scores; the outermost 0.1% at each end are counted in the end bins."""
    low, high = np.quantile(pool, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, 61)
    shares = {
        label: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
        for label, values in (("pool", pool), ("selected", selected))
        if len(values)
    }
    colours = {"pool": POOL_COLOUR, "selected": SELECTED_COLOUR}

    def draw(axes: Axes) -> None:
        for label, share in shares.items():
            colour = colours[label]
            axes.stairs(100 * share, edges, label=label, color=colour, fill=True, alpha=0.55)
        axes.set(xlabel=axis, ylabel="% of candidates")
        axes.legend()

    data = {"edges": edges, "shares": shares}
    title = "Scores of the pool and of what is selected"
    return Figure(title, draw_svg(name, 2.7, draw), data)


def score_by_length(
    name: str,
    axis: str,
    lengths: Float[np.ndarray, " bins"],
    quantiles: Float[np.ndarray, "bins 3"],
) -> Figure:
    """Median score and the middle 80% of scores, by length."""
    low, middle, high = quantiles.T

    def draw(axes: Axes) -> None:
        axes.fill_between(
            lengths, low, high, color=POOL_COLOUR, alpha=0.35, lw=0, label="middle 80%"
        )
        axes.plot(lengths, middle, color=SELECTED_COLOUR, marker=".", label="median")
        axes.set(xlabel="tokens", ylabel=axis)
        if lengths[-1] > 10 * lengths[0]:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.legend()

    data = {"num_tokens": lengths, "low": low, "median": middle, "high": high}
    return Figure("Scores by length of the candidate", draw_svg(name, 2.7, draw), data)


def _length_bins(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Candidates of about the same length, in equal parts, each of some ten at least."""
    count = min(LENGTH_BINS, max(1, len(lengths) // 10))
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)))
    place = np.searchsorted(edges[1:-1], lengths, side="right")
    for i in range(len(edges) - 1):
        rows = np.flatnonzero(place == i)
        if len(rows):
            yield rows
