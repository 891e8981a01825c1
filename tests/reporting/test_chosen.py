"""What arms chose, against counting one by one."""

import numpy as np
import pytest

from dsdm.reporting.sections.chosen import chosen_overlap, chosen_sources

RNG = np.random.default_rng(0)
TOKENS, SOURCES = RNG.integers(1, 50, 60), RNG.integers(0, 6, 60)
NAMES = [f"s{i}" for i in range(6)]
CHOSEN = {"m": np.array([1, 5, 9, 30]), "n": np.array([5, 9, 40]), "none": np.zeros(0, int)}


def literal_shares(candidates):
    counted = dict.fromkeys(NAMES, 0)
    for candidate in candidates:
        counted[NAMES[SOURCES[candidate]]] += int(TOKENS[candidate])
    total = max(sum(counted.values()), 1)
    return {name: count / total for name, count in counted.items()}


def test_shares_are_of_tokens():
    found = chosen_sources(CHOSEN, TOKENS, SOURCES, NAMES, 9)
    assert found["arms"] == ["pool", "m", "n", "none"]
    for arm, shares in zip(found["arms"], found["shares"], strict=True):
        expected = literal_shares(range(60) if arm == "pool" else CHOSEN[arm])
        assert dict(zip(found["sources"], shares.tolist(), strict=True)) == pytest.approx(expected)
    assert found["num_other"] == 0


def test_sources_that_some_arm_favours_are_first_and_the_rest_is_summed():
    found = chosen_sources(CHOSEN, TOKENS, SOURCES, NAMES, 2)
    assert len(found["sources"]) == 3
    assert found["sources"][-1] == "other sources"
    assert found["num_other"] == 4
    assert found["shares"][:3].sum(axis=1) == pytest.approx([1, 1, 1])
    largest = {name: max(literal_shares(c)[name] for c in CHOSEN.values()) for name in NAMES}
    assert max(largest, key=largest.__getitem__) in found["sources"][:2]


def test_overlap_is_the_share_of_the_row():
    found = chosen_overlap(CHOSEN, 60)
    for i, first in enumerate(CHOSEN.values()):
        for j, second in enumerate(CHOSEN.values()):
            common = len({*first.tolist()} & {*second.tolist()})
            assert found["shares"][i, j] == pytest.approx(common / max(len(first), 1))
    assert found["num_rows"] == [4, 3, 0]
    assert found["by_chance"] == pytest.approx([4 / 60, 3 / 60, 0])
