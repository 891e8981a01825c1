"""Reading configuration files and overrides."""

import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from dsdm.config import as_dict, differences, fingerprint, load_config
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
        ("200k", 200_000.0),
        ("1.5M", 1_500_000.0),
        ("2B", 2e9),
    ],
)
def test_numbers_mean_what_everybody_means(tmp_path: Path, written: str, number: float) -> None:
    assert load(tmp_path, f"lr: {written}").lr == number


@pytest.mark.parametrize("text", ["e3", "1e", "1e-", "abc", "1e3x", "M", "1Mk", "1m"])
def test_words_that_look_like_numbers_are_no_numbers(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="`lr`: Expected `float`, got `str`"):
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


FILE = """\
run: runs/mine
pool: {files: [a.jsonl]}
targets:
  - {name: first, file: a.jsonl}
  - name: second
    file: b.jsonl
model: {config: {model_type: gpt2}}
selection:
  fraction: 0.1
"""


def refusal(folder: Path, text: str, *overrides: tuple[str, str]) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    return str(caught.value).replace(str(path), "mine.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("files", "fils", "mine.yaml:2: unknown field `fils` in `pool`; did you mean `files`?"),
        ("model:", "modell:", "mine.yaml:7: unknown field `modell`; did you mean `model`?"),
        ("name: s", "nme: s", "mine.yaml:5: unknown field `nme` in `targets[1]`; did you mean"),
        ("name: s", "xyz: s", "mine.yaml:5: unknown field `xyz` in `targets[1]`; known are name"),
        ("    file", "    limit: 1.5\n    file", "mine.yaml:6: `targets[1].limit`: Expected `int"),
        ("run: runs/mine\n", "", "mine.yaml:1: missing required field `run`."),
        (
            "[a.jsonl]",
            "[a], format: parqet",
            "mine.yaml:2: `pool`: format 'parqet' is none of auto, dataset, tokens, conversations, "
            "arrow, jsonl, parquet, text; did you mean `parquet`?",
        ),
        ("run: runs", "run: [runs", "mine.yaml: is not valid YAML: line 2: expected"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert refusal(tmp_path, FILE.replace(old, new)).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            ("pool.fils", "x"),
            "--pool.fils x: unknown field `fils` in `pool`; did you mean `files`?",
        ),
        (("seed", "one"), "--seed one: `seed`: Expected `int`, got `str`."),
        (("targets", "[{nme: a}]"), "--targets [{nme: a}]: unknown field `nme` in `targets[0]`"),
        # No part of the path: without the override the file is good.
        (("proxies.count", "0"), "--proxies.count 0: `proxies` needs count >= 1"),
    ],
)
def test_a_mistake_in_an_override_is_not_put_down_to_the_file(
    tmp_path: Path, override: tuple[str, str], message: str
) -> None:
    assert refusal(tmp_path, FILE, override).startswith(message)


def test_a_mistake_in_the_file_is_not_put_down_to_a_good_override(tmp_path: Path) -> None:
    text = FILE.replace("fraction: 0.1", "fracton: 0.1")
    message = refusal(tmp_path, text, ("seed", "3"))
    assert message.startswith("mine.yaml:9: unknown field `fracton` in `selection`")


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("selection.tokens", "2e5", 200_000),
        ("selection.tokens", "1.5M", 1_500_000),
        ("selection.candidates", "2k", 2000),
        ("selection.fraction", "5e-2", 0.05),
    ],
)
def test_a_budget_on_the_command_line_replaces_the_file_s(
    tmp_path: Path, name: str, written: str, value: float
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE, encoding="utf-8")
    selection = load_experiment(path, [(name, written)]).selection
    given = {"selection.tokens": selection.tokens, "selection.candidates": selection.candidates}
    given["selection.fraction"] = selection.fraction
    assert {key: found for key, found in given.items() if found is not None} == {name: value}


def test_two_budgets_on_the_command_line_are_refused(tmp_path: Path) -> None:
    both = (("selection.tokens", "5"), ("selection.fraction", "0.1"))
    assert "exactly one budget" in refusal(tmp_path, FILE, *both)


def test_a_plugin_is_imported_before_the_rest_of_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "toy_plugin.py").write_text("raise ImportError('it was imported')\n")
    message = refusal(tmp_path, FILE + "plugins: [toy_plugin]\nunknown: 1\n")
    assert message.startswith("plugins: `toy_plugin` cannot be imported (it was imported)")


def test_a_plugin_that_is_not_there_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, FILE, ("plugins", "[absent_plugin]"))
    assert "`absent_plugin` cannot be imported (No module named 'absent_plugin')" in message
    assert "'a/b.py' is no name of a Python module" in refusal(
        tmp_path, FILE, ("plugins", "[a/b.py]")
    )
    assert "--plugins 3: `plugins`: Expected `array`" in refusal(tmp_path, FILE, ("plugins", "3"))


def test_a_process_that_is_sent_an_experiment_has_its_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "sent_plugin.py").write_text("print('imported')\n")
    (tmp_path / "mine.yaml").write_text(FILE + "plugins: [sent_plugin]\n")
    sent = pickle.dumps(load_experiment(tmp_path / "mine.yaml"))
    script = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=sent, capture_output=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"imported\n", b"", 0)
