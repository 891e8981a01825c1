import dataclasses
import re
from typing import Any

import pytest

from dsdm.checking.lines import check_lines
from dsdm.checking.measured import (
    Agreement,
    Check,
    Confounds,
    Curvature,
    Measurements,
    Probe,
    ProbeGroup,
    ProxyLoss,
)
from dsdm.checking.verdict import judge, thresholds
from dsdm.evaluation.intervals import Interval

PROBE = Probe(
    groups=[ProbeGroup("high", 10, 0.3, {"a": 0.1})],
    gain={"a": Interval(0.02, 0.01, 0.03)},
    correlations={"mix": Interval(0.7, 0.4, 0.9), "a": None},
    reliability=0.9,
    steps=100,
    tokens=1000,
    share_of_proxy=0.1,
)
SANE = Measurements(
    method="ekfac",
    rows=2000,
    curvature=Curvature(rows=4096, dimension=513, damping=0.1),
    proxies=[ProxyLoss(training=4.8, unseen=4.9, unigram=7.1)] * 2,
    between_proxies=[Agreement("mix", 1, 0.5, 0.67), Agreement("a", 1, 0.4, 0.57)],
    between_halves=[Agreement("mix", 1, 0.8, 0.89)],
    between_curvatures=Agreement("mix", 1, 0.9, 0.9),
    scorer=[0.999, 0.998],
    target_slopes={"a": Interval(1.0, 0.8, 1.2), "b": Interval(0.1, -0.1, 0.3)},
    confounds=Confounds(0.1, -0.2, 0.3, 4, None),
    probe=PROBE,
)
NOISE = [Agreement("mix", 1, 0.05, 0.1)]


def with_probe(interval: Interval | None, reliability: float = 0.9) -> Probe:
    return dataclasses.replace(PROBE, correlations={"mix": interval}, reliability=reliability)


def changed(**changes: Any) -> Measurements:
    return dataclasses.replace(SANE, **changes)


def test_a_sane_run_is_trusted_without_a_word() -> None:
    verdict = judge(SANE)
    assert (verdict.trust, verdict.reasons, verdict.warnings) == (True, [], [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"proxies": [ProxyLoss(6.8, None, 7.1)]},
            "proxy 0 is barely trained: .* 6.80 .* 7.10, .* 10%",
        ),
        ({"proxies": [ProxyLoss(1.0, 7.5, 7.1)]}, "proxy 0 is barely trained: .* 7.50"),
        ({"proxies": [ProxyLoss(float("nan"), None, 7.1)]}, "proxy 0 is barely trained"),
        ({"curvature": Curvature(4096, 513, 0.0)}, "ill-posed: 4,096 rows for 513 .* 15,390"),
        ({"between_proxies": NOISE}, "between proxies .* 0.05, .* 0.10; 0.25"),
        ({"between_halves": NOISE}, "between halves of the targets .* more target examples"),
        ({"between_curvatures": NOISE[0]}, "between samples for the curvature"),
        ({"between_proxies": [Agreement("mix", 1, -0.9, 0.0)]}, "contradict each other: .* -0.90"),
        ({"scorer": [0.99, 0.5]}, "scores of proxy 1 are not the exact .* 0.500"),
        ({"scorer": [-0.99]}, "scores of proxy 0 .* -0.990"),
        ({"scorer": [None]}, "not defined"),
        ({"target_slopes": {"a": Interval(-1.0, -2.0, -0.5)}}, r"points away .*a -1\)"),
        ({"probe": with_probe(Interval(-0.6, -0.8, -0.3))}, "-0.60 .* wrong way"),
        ({"probe": with_probe(Interval(0.2, -0.2, 0.5))}, r"may be 0\.$"),
        ({"probe": with_probe(Interval(0.2, -0.2, 0.5), 0.1)}, "itself is noisy .*0.10"),
        ({"probe": with_probe(None)}, "the probe gives no figure"),
        ({"probe": None}, "the probe gives no figure"),
    ],
)
def test_each_figure_that_fails_is_a_reason(changes: dict[str, Any], reason: str) -> None:
    verdict = judge(changed(**changes))
    assert not verdict.trust
    (found,) = verdict.reasons
    assert re.search(reason, found), found


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"proxies": [SANE.proxies[0], ProxyLoss(6.0, None, 7.1)]},
            "little but .* only 15%",
        ),
        ({"proxies": SANE.proxies[:1]}, "agreement between proxies is not known"),
        ({"curvature": Curvature(4096, 100, 0.0)}, "hardly damped"),
        ({"between_proxies": [Agreement("a", 1, 0.0, 0.0)]}, "for a are mostly noise"),
        ({"confounds": Confounds(-0.95, 0.0, 0.0, 1, None)}, "little but length: .* -0.95"),
        ({"confounds": Confounds(None, 0.95, 0.0, 1, None)}, "gradient's norm"),
        (
            {"target_slopes": {"a": SANE.target_slopes["a"], "b": Interval(-1.0, -2.0, -0.5)}},
            "works against b",
        ),
    ],
)
def test_a_warning_is_no_reason(changes: dict[str, Any], warning: str) -> None:
    verdict = judge(changed(**changes))
    assert verdict.trust
    (found,) = verdict.warnings
    assert re.search(warning, found), found


def test_what_is_not_known_is_no_reason() -> None:
    unknown = [Agreement("mix", 0, None, None)]
    measured = changed(between_proxies=unknown, between_curvatures=None, curvature=None)
    assert judge(measured).trust


def test_what_can_not_be_made_is_not_trusted() -> None:
    measured = Measurements("ekfac", failure="NaN in row 3", curvature=Curvature(8, 100, 0.0))
    verdict = judge(measured)
    assert not verdict.trust
    assert "NaN in row 3" in verdict.reasons[0]
    assert "ill-posed" in verdict.reasons[1]


def test_every_threshold_is_named() -> None:
    from dsdm.checking import verdict

    assert thresholds() == {name: vars(verdict)[name] for name in vars(verdict) if name.isupper()}


def test_the_terminal_shows_verdict_reasons_and_every_figure() -> None:
    lines = check_lines(Check(SANE, judge(SANE)))
    assert lines[0] == "verdict   trust ekfac"
    text = "\n".join(lines)
    for figure in ("4.80 in training", "7.10 by word", "0.67", "0.999", "+0.70 (95% +0.40"):
        assert figure in text
    flipped = changed(probe=with_probe(Interval(-0.6, -0.8, -0.3)))
    assert check_lines(Check(flipped, judge(flipped)))[:2] == [
        "verdict   do not trust ekfac",
        f"  - {judge(flipped).reasons[0]}",
    ]


def test_a_failure_has_no_figures_to_show() -> None:
    failed = Measurements("ekfac", failure="NaN in row 3")
    assert len(check_lines(Check(failed, judge(failed)))) == 2
