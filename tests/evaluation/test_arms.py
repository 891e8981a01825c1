import pytest

from dsdm.errors import ConfigError
from dsdm.evaluation.arms import Arm, parse_arm

METHODS = ("ekfac", "trak")


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        ("top", Arm("top", "top", "ekfac")),
        ("bottom", Arm("bottom", "bottom", "ekfac")),
        ("random", Arm("random", "random")),
        ("random@0.5", Arm("random@0.5", "random", budget=0.5)),
        ("repeated", Arm("repeated", "repeated")),
        ("all-1epochs", Arm("all-1epochs", "all", epochs=1.0)),
        ("source-matched", Arm("source-matched", "source-matched", "ekfac")),
        ("best-source@2", Arm("best-source@2", "best-source", "ekfac", budget=2.0)),
        ("trak-bottom", Arm("trak-bottom", "bottom", "trak")),
        ("low_loss", Arm("low_loss", "top", "low_loss")),
        ("trak:squad", Arm("trak:squad", "top", "trak", "squad")),
        ("trak:a-b.c-bottom", Arm("trak:a-b.c-bottom", "bottom", "trak", "a-b.c")),
        ("dsir-8epochs@4", Arm("dsir-8epochs@4", "top", "dsir", None, 8.0, 4.0)),
        ("dsir:squad", Arm("dsir:squad", "top", "dsir", "squad")),
        ("top-0.5epochs", Arm("top-0.5epochs", "top", "ekfac", epochs=0.5)),
    ],
)
def test_an_arm_is_what_its_name_says(name: str, arm: Arm) -> None:
    assert parse_arm(name, "ekfac", METHODS) == arm


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gradient", "add 'gradient' to directions.estimators"),
        ("gradients", "is not known"),
        ("", "is not known"),
        ("top@", "is not known"),
        ("random-bottom", "only a method has a bottom"),
        ("source-matched:squad", "only a method has a bottom or a target"),
        ("semdedup:squad", "semdedup does not look at targets"),
        ("random-8epochs", "random takes fresh rows.*repeated-8epochs"),
        ("top@0", "'0' is not a number above 0"),
        ("top@1.2.3", "'1.2.3' is not a number"),
    ],
)
def test_an_unknown_arm_is_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_arm(name, "ekfac", METHODS)
