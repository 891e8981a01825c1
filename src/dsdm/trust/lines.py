"""A check in lines for a terminal."""

from collections.abc import Iterator

from dsdm.evaluation.intervals import Interval
from dsdm.trust.measured import Agreement, Check, Measured, Probe

UNKNOWN = "not known"


def check_lines(check: Check) -> list[str]:
    """The verdict, the reasons for it, and every figure."""
    verdict = check.verdict
    lines = [f"verdict   {'trust' if verdict.trust else 'do not trust'} {check.measured.method}"]
    lines += [f"  - {reason}" for reason in verdict.reasons]
    lines += [f"  note: {warning}" for warning in verdict.warnings]
    if check.measured.failure is None:
        lines += ["", *_table(check.measured)]
    return lines


def _table(measured: Measured) -> Iterator[str]:
    yield f"On {measured.rows:,} rows of the pool:"
    for number, proxy in enumerate(measured.proxies):
        yield _line(
            f"proxy {number}, loss",
            f"{proxy.training:.2f} in training, {_figure(proxy.unseen)} on unseen rows, "
            f"{proxy.unigram:.2f} by word frequencies (nats a token)",
        )
    if measured.curvature is not None:
        fitted = measured.curvature
        text = f"{fitted.rows:,} rows, {fitted.dimension:,} dimensions, damping {fitted.damping:g}"
        yield _line("curvature", text)
    yield from _agreement_lines("between proxies", measured.between_proxies)
    yield from _agreement_lines("between halves", measured.between_halves)
    if measured.between_curvatures is not None:
        yield from _agreement_lines("between curvatures", [measured.between_curvatures])
    scorer = ", ".join(_figure(value, 3) for value in measured.scorer)
    yield _line("scorer, exact", f"correlation {scorer}")
    for target, slope in measured.target_slopes.items():
        yield _line(f"own score, {target}", _interval(slope))
    yield from _confound_lines(measured)
    if measured.probe is not None:
        yield from _probe_lines(measured.probe)


def _agreement_lines(title: str, found: list[Agreement]) -> Iterator[str]:
    for one in found:
        text = f"correlation {_figure(one.correlation)}, reliability {_figure(one.reliability)}"
        yield _line(f"{title}, {one.name}", text if one.pairs else UNKNOWN)


def _confound_lines(measured: Measured) -> Iterator[str]:
    if measured.confounds is None:
        return
    found = measured.confounds
    yield _line("with length", f"correlation {_figure(found.length)}")
    yield _line("with gradient norm", f"correlation {_figure(found.gradient_norm)}")
    share, count = _figure(found.between_sources), found.num_sources
    yield _line("between sources", f"{share} of the variance, {count} sources")
    yield _line("rows seen by proxies", f"{_figure(found.seen)} spreads higher than others")


def _probe_lines(probe: Probe) -> Iterator[str]:
    yield _line(
        "probe",
        f"{len(probe.groups)} groups of {probe.steps} steps, {probe.tokens:,} tokens, "
        f"{probe.share_of_proxy:.2f} of a proxy's training, "
        f"reliability {_figure(probe.reliability)}",
    )
    for name, gain in probe.gain.items():
        yield _line(f"probe, high - random, {name}", f"{_interval(gain, 4)} nats")
    for name, interval in probe.correlations.items():
        text = UNKNOWN if interval is None else _interval(interval)
        yield _line(f"probe, {name}", f"correlation {text}")


def _line(title: str, text: str) -> str:
    return f"  {title:30} {text}"


def _figure(value: float | None, digits: int = 2) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _interval(found: Interval, digits: int = 2) -> str:
    low, high = f"{found.low:+.{digits}f}", f"{found.high:+.{digits}f}"
    return f"{found.mean:+.{digits}f} (95% {low} to {high})"
