"""What the registry says of each baseline, and a baseline from outside of the project."""

import subprocess
import sys

import numpy as np
import pytest

from dsdm.baselines import BASELINES, NoSettings, baseline, baselines_config
from dsdm.config import Config, parse_config
from dsdm.errors import ConfigError


class LengthConfig(Config):
    """Of `longest`."""

    sign: float = 1.0
    """Times the tokens."""


@pytest.fixture
def longest(monkeypatch):
    """A baseline that is registered by a test."""
    monkeypatch.setattr(BASELINES, "_found", dict(BASELINES._found))

    @baseline("longest", help="The longest texts.", settings=LengthConfig, sees_targets=False)
    def longest(inputs, settings):
        return inputs.scores(settings.sign * inputs.num_tokens.astype(np.float64), "longest")

    return longest


def test_every_baseline_is_found_by_its_name():
    assert sorted(BASELINES) == [
        "bm25",
        "classifier",
        "dsir",
        "less",
        "low_loss",
        "semdedup",
        "similarity",
    ]
    assert {name for name in BASELINES if not BASELINES[name].sees_targets} == {
        "low_loss",
        "semdedup",
    }
    assert {name for name in BASELINES if BASELINES[name].needs_moments} == {"less"}


def test_passes_over_the_pool_are_those_that_are_read():
    passes = {n: BASELINES[n].passes(BASELINES[n].settings(), 2, 6) for n in BASELINES}
    assert passes == {
        "bm25": 0,
        "classifier": 0,
        "dsir": 0,
        "less": 18,
        "low_loss": 2,
        "semdedup": 1,
        "similarity": 1,
    }


def test_a_baseline_of_a_plugin_has_a_section(longest):
    config = parse_config({"longest": {"sign": -1.0}}, baselines_config(), "test")
    assert config.longest.sign == -1.0
    assert not hasattr(config, "low_loss")
    with pytest.raises(ConfigError, match="unknown field `sing` in `longest`"):
        parse_config({"longest": {"sing": 1}}, baselines_config(), "test")


def test_a_name_that_is_no_section_is_refused():
    with pytest.raises(ValueError, match="letters, digits"):
        baseline("two words", help="")
    assert BASELINES["low_loss"].settings is NoSettings


def test_registering_imports_no_heavy_library():
    heavy = ("torch", "transformers", "sklearn", "scipy", "bm25s")
    code = f"import sys, dsdm.baselines; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout.strip() == "[]"
