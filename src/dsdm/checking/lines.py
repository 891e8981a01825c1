"""A check in lines for a terminal."""

from collections.abc import Iterator

from dsdm.checking.measured import Agreement, Check, Measurements, Probe
from dsdm.evaluation.intervals import Interval

UNKNOWN = "not known"


def check_lines(check: Check) -> list[str]:
    """The verdict, the reasons for it, and every figure."""
    verdict = check.verdict
    lines = [f"verdict   {'trust' if verdict.trust else 'do not trust'} {check.measured.method}"]
    lines += [f"  - {reason}" for reason in verdict.reasons]
    lines += [f"  note: {warning}" for warning in verdict.warnings]
    if check.measured.failure is None:
        lines += ["", f"On {check.measured.rows:,} rows of the pool:"]
        lines += [f"  {title:30} {text}" for title, text in check_figures(check.measured)]
    return lines


def check_figures(measured: Measurements) -> Iterator[tuple[str, str]]:
    """Every figure by its name."""
    for number, proxy in enumerate(measured.proxies):
        yield (
            f"proxy {number}, loss",
            f"{proxy.training:.2f} in training, {_figure(proxy.unseen)} on unseen rows, "
            f"{proxy.unigram:.2f} by word frequencies (nats a token)",
        )
    if measured.curvature is not None:
        fitted = measured.curvature
        text = f"{fitted.rows:,} rows, {fitted.dimension:,} dimensions, damping {fitted.damping:g}"
        yield ("curvature", text)
    yield from _agreement_lines("between proxies", measured.between_proxies)
    yield from _agreement_lines("between halves", measured.between_halves)
    if measured.between_curvatures is not None:
        yield from _agreement_lines("between curvatures", [measured.between_curvatures])
    scorer = ", ".join(_figure(value, 3) for value in measured.scorer)
    yield ("scorer, exact", f"correlation {scorer}")
    for target, slope in measured.target_slopes.items():
        yield (f"own score, {target}", _interval(slope))
    yield from _confound_lines(measured)
    if measured.probe is not None:
        yield from _probe_lines(measured.probe)


def _agreement_lines(title: str, found: list[Agreement]) -> Iterator[tuple[str, str]]:
    for one in found:
        text = f"correlation {_figure(one.correlation)}, reliability {_figure(one.reliability)}"
        yield (f"{title}, {one.name}", text if one.pairs else UNKNOWN)


def _confound_lines(measured: Measurements) -> Iterator[tuple[str, str]]:
    if measured.confounds is None:
        return
    found = measured.confounds
    yield ("with length", f"correlation {_figure(found.length)}")
    yield ("with gradient norm", f"correlation {_figure(found.gradient_norm)}")
    share, count = _figure(found.between_sources), found.num_sources
    yield ("between sources", f"{share} of the variance, {count} sources")
    yield ("rows seen by proxies", f"{_figure(found.seen)} spreads higher than others")


def _probe_lines(probe: Probe) -> Iterator[tuple[str, str]]:
    yield (
        "probe",
        f"{len(probe.groups)} groups of {probe.steps} steps, {probe.tokens:,} tokens, "
        f"{probe.share_of_proxy:.2f} of a proxy's training, "
        f"reliability {_figure(probe.reliability)}",
    )
    for name, gain in probe.gain.items():
        yield (f"probe, high - random, {name}", f"{_interval(gain, 4)} nats")
    for name, interval in probe.correlations.items():
        text = UNKNOWN if interval is None else _interval(interval)
        yield (f"probe, {name}", f"correlation {text}")


def _figure(value: float | None, digits: int = 2) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _interval(found: Interval, digits: int = 2) -> str:
    low, high = f"{found.low:+.{digits}f}", f"{found.high:+.{digits}f}"
    return f"{found.mean:+.{digits}f} (95% {low} to {high})"
