"""From what was measured to a verdict, with a reason in plain words for each figure that fails.

Each threshold states why it is what it is. A figure that is not known is no reason, but a warning.
"""

from collections.abc import Iterator

from dsdm.checking.measured import Agreement, Measurements, Verdict
from dsdm.evaluation.intervals import Interval

MIN_RELIABILITY = 0.25
"""Choosing by scores that correlate r with noise-free ones wins r times what those would win, and
r is the root of the reliability: below 0.25, noise takes more than half of what could be won."""
MIN_SCORER = 0.9
"""By the same rule the scorer's own error may take a tenth, no more. Where it is sound it is above
0.98 (`scores.min_correlation`)."""
MIN_LEARNED = 0.1
"""Share of the unigram entropy by which a proxy's loss must be below it. In the pilot (1.9M
parameters) it is 0 after 0.25M tokens, 0.1 after 0.5M and 0.33 at the end of 4.1M; in the
quickstart two proxies of 0.7M tokens each chose hardly better than random in one run of two."""
LITTLE_LEARNED = 0.2
"""At 1.5M tokens of the pilot it is 0.23; what such a proxy knows is little but word frequencies.
Below that, more training is the first thing to try."""
MIN_DAMPING = 1e-4
"""Of the mean eigenvalue. In the layers of a pilot proxy (EK-FAC, 128 rows) the lowest tenth ends
between 1e-6 and 1e-2, mostly near 2e-4; on other rows it comes out up to twice as large, and the
least are rounding (1e-16). With less damping, what is divided by them decides."""
ROWS_PER_DIMENSION = 30
"""Rows of the sample for each dimension, from which on the least eigenvalues are well determined
and the damping may be as low as one likes: the design's rule for `trak`."""
CONFOUNDED = 0.9
"""With a correlation of 0.9, four fifths of the order are length (or norm) and nothing else."""


def thresholds() -> dict[str, float]:
    """Every threshold by its name: a verdict with others is another verdict."""
    return {
        "MIN_RELIABILITY": MIN_RELIABILITY,
        "MIN_SCORER": MIN_SCORER,
        "MIN_LEARNED": MIN_LEARNED,
        "LITTLE_LEARNED": LITTLE_LEARNED,
        "MIN_DAMPING": MIN_DAMPING,
        "ROWS_PER_DIMENSION": ROWS_PER_DIMENSION,
        "CONFOUNDED": CONFOUNDED,
    }


def judge(measured: Measurements) -> Verdict:
    """The verdict: trust where there is no reason against it."""
    if measured.failure is not None:
        failed = f"the scores can't be made: {measured.failure}"
        return Verdict(False, [failed, *_curvature_reasons(measured)], [])
    reasons = [
        *_proxy_reasons(measured),
        *_curvature_reasons(measured),
        *_agreement_reasons(measured),
        *_scorer_reasons(measured),
        *_target_reasons(measured),
        *_probe_reasons(measured),
    ]
    return Verdict(not reasons, reasons, list(_warnings(measured)))


def _proxy_reasons(measured: Measurements) -> Iterator[str]:
    for number, proxy in enumerate(measured.proxies):
        if not proxy.learned >= MIN_LEARNED:
            yield (
                f"proxy {number} is barely trained: its loss is {proxy.worst:.2f} nats a token. "
                f"Word frequencies alone give {proxy.unigram:.2f}, and it must be "
                f"{MIN_LEARNED:.0%} below that. Train the proxies longer."
            )


def _curvature_reasons(measured: Measurements) -> Iterator[str]:
    fitted = measured.curvature
    if fitted is None or not _is_undamped(measured):
        return
    needed = ROWS_PER_DIMENSION * fitted.dimension
    if fitted.rows < needed:
        yield (
            f"the curvature is ill-posed: {fitted.rows:,} rows for {fitted.dimension:,} dimensions "
            f"at a damping of {fitted.damping:g}. Without damping of {MIN_DAMPING:g} or more it "
            f"takes {ROWS_PER_DIMENSION} rows a dimension, {needed:,}. "
            "Leave directions.damping out, or set it to 0.1 or more."
        )


def _agreement_reasons(measured: Measurements) -> Iterator[str]:
    kinds = {
        "proxies": (measured.between_proxies, "Train more proxies, or longer."),
        "halves of the targets": (measured.between_halves, "Give more target examples."),
        "samples for the curvature": (
            [measured.between_curvatures] if measured.between_curvatures else [],
            "Raise directions.curvature_rows or directions.damping.",
        ),
    }
    for between, (found, remedy) in kinds.items():
        # The mix selects; that a single target's scores are noise is a warning.
        for one in found:
            if one.name == "mix" and _is_unreliable(one):
                yield f"{_unreliable(one, between)} {remedy}"


def _scorer_reasons(measured: Measurements) -> Iterator[str]:
    for number, value in enumerate(measured.scorer):
        if value is None or value < MIN_SCORER:
            seen = "not defined" if value is None else f"{value:.3f}"
            yield (
                f"scores of proxy {number} are not the exact derivative: their correlation with it "
                f"is {seen}, and must be {MIN_SCORER} or more. Set scores.mode to backward or "
                "scores.precision to float32."
            )


def _target_reasons(measured: Measurements) -> Iterator[str]:
    slopes = measured.target_slopes
    if _points_away(measured):
        figures = ", ".join(f"{name} {slope.mean:+.3g}" for name, slope in slopes.items())
        yield (
            "the direction points away from the targets: their own tune examples score below 0 "
            f"({figures}). The sign is flipped."
        )


def _probe_reasons(measured: Measurements) -> Iterator[str]:
    probe = measured.probe
    found = probe.correlations.get("mix") if probe else None
    if probe is None or found is None:
        yield "the probe gives no figure: all its groups score the same or do equally well."
    elif found.mean < 0:
        yield (
            f"groups that score higher lower the targets' loss less: the probe's correlation is "
            f"{_interval(found)}, and must be above 0. The scores point the wrong way."
        )
    elif found.low <= 0:
        yield (
            f"training on groups that score higher is not seen to help: the probe's correlation is "
            f"{_interval(found)} and may be 0.{_noise_of(probe.reliability)}"
        )


def _warnings(measured: Measurements) -> Iterator[str]:
    yield from _training_warnings(measured)
    if len(measured.proxies) < 2:
        yield "agreement between proxies is not known: there is one. Set proxies.count to 2."
    for between, found in (
        ("proxies", measured.between_proxies),
        ("halves of the target", measured.between_halves),
    ):
        for one in found:
            if one.name != "mix" and _is_unreliable(one):
                yield _unreliable(one, between)
    for name, slope in measured.target_slopes.items():
        if slope.high < 0 and not _points_away(measured):
            yield f"the mix works against {name}: its own tune examples score {slope.mean:+.3g}."
    yield from _confound_warnings(measured)


def _training_warnings(measured: Measurements) -> Iterator[str]:
    for number, proxy in enumerate(measured.proxies):
        if MIN_LEARNED <= proxy.learned < LITTLE_LEARNED:
            yield (
                f"proxy {number} knows little but word frequencies: its loss is only "
                f"{proxy.learned:.0%} below what these alone give."
            )
    fitted = measured.curvature
    if fitted and _is_undamped(measured) and fitted.rows >= ROWS_PER_DIMENSION * fitted.dimension:
        yield f"the curvature is hardly damped ({fitted.damping:g})."


def _confound_warnings(measured: Measurements) -> Iterator[str]:
    if measured.confounds is None:
        return
    found = {
        "length": measured.confounds.length,
        "the gradient's norm": measured.confounds.gradient_norm,
    }
    for what, value in found.items():
        if value is not None and abs(value) > CONFOUNDED:
            yield f"scores are little but {what}: their correlation with it is {value:+.2f}."


def _points_away(measured: Measurements) -> bool:
    slopes = measured.target_slopes.values()
    return bool(slopes) and all(slope.high < 0 for slope in slopes)


def _is_undamped(measured: Measurements) -> bool:
    return measured.curvature is not None and measured.curvature.damping < MIN_DAMPING


def _is_unreliable(one: Agreement) -> bool:
    return one.reliability is not None and one.reliability < MIN_RELIABILITY


def _unreliable(one: Agreement, between: str) -> str:
    what = "scores" if one.name == "mix" else f"scores for {one.name}"
    if one.correlation is not None and one.correlation < 0:
        found = f"between {between} their correlation is {one.correlation:.2f}"
        return f"{what} contradict each other: {found}."
    return (
        f"{what} are mostly noise: between {between} their correlation is {one.correlation:.2f}, "
        f"which makes a reliability of {one.reliability:.2f}; {MIN_RELIABILITY} is the least."
    )


def _noise_of(reliability: float | None) -> str:
    if reliability is None or reliability >= 0.5:
        return ""
    return (
        f" The probe itself is noisy (reliability {reliability:.2f}): raise check.tune_examples or "
        "check.probe.steps."
    )


def _interval(found: Interval) -> str:
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
