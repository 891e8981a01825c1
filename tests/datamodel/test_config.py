"""Each estimator's settings in a section of its own."""

import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from dsdm.config import Config, as_dict, differences, fingerprint, parse_config
from dsdm.datamodel.config import (
    DirectionsConfig,
    directions_config,
    estimator_settings,
)
from dsdm.datamodel.estimators import ESTIMATORS, estimator
from dsdm.datamodel.estimators.ekfac import EkfacConfig
from dsdm.errors import ConfigError


class ToyConfig(Config):
    """Settings of `toy`."""

    strength: float = 1.0
    """How much."""


@pytest.fixture
def toy() -> Iterator[None]:
    """An estimator of an outsider."""

    @estimator("toy", settings=ToyConfig, help="for a test")
    def estimate_toy(inputs: object, settings: ToyConfig) -> dict[str, object]:
        return {}

    yield
    del ESTIMATORS._found["toy"]


def test_settings_are_read_without_torch() -> None:
    code = (
        "import sys, dsdm.experiment; from dsdm.datamodel.config import *; directions_config();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'scipy.stats')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_section_is_found_by_the_estimators_name() -> None:
    config = parse_config({"ekfac": {"damping": 2.0}}, DirectionsConfig, "here")
    assert estimator_settings(config, "ekfac") == EkfacConfig(damping=2.0)
    assert estimator_settings(config, "gradient") == ESTIMATORS["gradient"].settings()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"ekfac": {"dampin": 2.0}}, "unknown field `dampin` in `ekfac`; did you mean `damping`?"),
        ({"damping": 2.0}, "unknown field `damping`"),
        ({"efkac": {}}, "unknown field `efkac`; did you mean `ekfac`?"),
        ({"trak": {"projection": 0}}, "`trak.projection`: Expected `int` >= 1"),
        ({"estimators": ["less"]}, "estimator 'less' is not known: known are ekfac, gradient"),
    ],
)
def test_what_is_no_setting_is_refused_by_its_path(raw: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(raw, DirectionsConfig, "here")
    assert message in str(error.value)


def test_an_outsiders_section_is_read_compared_and_fingerprinted(toy: None) -> None:
    composed = directions_config()
    assert composed is directions_config()
    assert issubclass(composed, type(DirectionsConfig()).__mro__[1])
    one = parse_config({"estimators": ["toy"], "toy": {"strength": 2.0}}, composed, "here")
    other = msgspec.structs.replace(one, toy=ToyConfig())
    assert estimator_settings(one, "toy") == ToyConfig(strength=2.0)
    assert differences(as_dict(one), as_dict(other)) == ["toy.strength: 2.0 -> 1.0"]
    assert fingerprint(one) != fingerprint(other)
    # Settings that were read before it registered have its defaults.
    assert estimator_settings(DirectionsConfig(), "toy") == ToyConfig()
    with pytest.raises(ConfigError, match="unknown field `strong` in `toy`"):
        parse_config({"toy": {"strong": 2.0}}, composed, "here")


def test_a_name_that_can_be_no_section_is_refused() -> None:
    with pytest.raises(ValueError, match="'two words': its name must be letters"):
        estimator("two words", help="for a test")
    estimator("seed", settings=ToyConfig, help="for a test")(lambda inputs, settings: {})
    try:
        with pytest.raises(ValueError, match="'seed': `directions` has a setting of that name"):
            directions_config()
    finally:
        del ESTIMATORS._found["seed"]
