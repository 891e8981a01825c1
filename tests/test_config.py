"""Reading configuration files and overrides."""

import math
from pathlib import Path

import pytest

from dsdm.config import Config, as_dict, differences, fingerprint, load_config
from dsdm.errors import ConfigError
from dsdm.experiment import Experiment, load_experiment, save_experiment
from dsdm.lm.config import TrainConfig
from tests.tiny_runs import write_experiment


def load(folder: Path, text: str, *overrides: tuple[str, str]) -> TrainConfig:
    path = folder / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, TrainConfig, overrides)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1e-3", 1e-3),
        ("2E3", 2000.0),
        ("1.5e+2", 150.0),
        (".5e1", 5.0),
        ("3", 3.0),
        (".inf", math.inf),
    ],
)
def test_numbers_mean_what_everybody_means(tmp_path: Path, written: str, number: float) -> None:
    assert load(tmp_path, f"lr: {written}").lr == number


@pytest.mark.parametrize("text", ["e3", "1e", "1e-", "abc", "1e3x"])
def test_words_that_look_like_numbers_are_no_numbers(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"Expected `float`, got `str` - at `\$\.lr`"):
        load(tmp_path, f"lr: {text}")


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, "lr: 1\nmax_grad_norm: 2", ("lr", "3e-4"), ("betas", "[0.8, 0.9]"))
    assert (config.lr, config.max_grad_norm, config.betas) == (3e-4, 2.0, (0.8, 0.9))


def test_an_override_reaches_a_section_that_the_file_leaves_out_or_empty(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, compare=None)
    for section in ("proxies.train.lr", "compare.train.lr"):
        experiment = load_experiment(path, [(section, "0.5")])
        value = experiment
        for name in section.split("."):
            value = getattr(value, name)
        assert value == 0.5


def test_an_override_of_a_setting_within_a_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--lr\.high: `lr` is not a section"):
        load(tmp_path, "lr: 1", ("lr.high", "2"))


def test_an_override_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--lr \[1: is not a YAML value"):
        load(tmp_path, "lr: 1", ("lr", "[1"))


def test_a_saved_experiment_is_the_same_experiment(tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(tmp_path, compare={"seeds": 2}), [])
    save_experiment(experiment, tmp_path / "saved.yaml")
    assert load_experiment(tmp_path / "saved.yaml", []) == experiment
    assert isinstance(experiment, Experiment)


def test_a_fingerprint_depends_on_content_alone() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint(TrainConfig()) == fingerprint(as_dict(TrainConfig()))
    assert fingerprint(TrainConfig()) != fingerprint(TrainConfig(lr=1.0))


def test_a_difference_names_the_innermost_field() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "e": None}
    assert differences(old, new) == ["a.c: 2 -> 3", "d: [1] -> None"]
    assert differences(old, old) == []


def test_a_difference_in_a_list_of_sections_names_the_section() -> None:
    old, new = {"a": [{"b": 1}, {"c": 2}]}, {"a": [{"b": 1}, {"c": 3}]}
    assert differences(old, new) == ["a[1].c: 2 -> 3"]
    assert differences(old["a"], new["a"]) == ["c: 2 -> 3"]
    assert differences(old["a"], [{"b": 1}]) != []


class Grown(Config):
    LATER = frozenset({"newer"})

    old: int = 1
    newer: int = 2


class Whole(Config):
    parts: tuple[Grown, ...] = (Grown(),)


def test_a_later_field_at_its_default_leaves_no_trace() -> None:
    assert as_dict(Grown()) == {"old": 1}
    assert as_dict(Grown(newer=3)) == {"old": 1, "newer": 3}
    assert as_dict({"a": [Whole()]}) == {"a": [{"parts": [{"old": 1}]}]}
