"""What `dsdm new` and `dsdm schema` write."""

import re
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from dsdm.config import Config, as_dict, load_config
from dsdm.errors import ConfigError
from dsdm.evaluation.arms import CompareConfig
from dsdm.experiment import Experiment, load_experiment
from dsdm.lm.config import LoraConfig
from dsdm.template import (
    FINETUNING,
    PRETRAINING,
    field_help,
    make_schema,
    make_template,
    write_template,
)

FULL = make_template(Experiment, PRETRAINING)


def settings(value: object, prefix: str = "") -> dict[str, object]:
    """Values by dotted name; of lists of sections those of the first."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = value[0]
    if not isinstance(value, dict) or prefix == "model.config.":
        return {prefix.removesuffix("."): value}
    found: dict[str, object] = {}
    for name, item in value.items():
        found |= settings(item, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("values", [PRETRAINING, FINETUNING], ids=["pretraining", "finetuning"])
def test_what_is_written_loads_as_the_values_and_defaults(tmp_path: Path, values: dict) -> None:
    write_template(tmp_path / "full.yaml", Experiment, values)
    write_template(tmp_path / "minimal.yaml", Experiment, values, minimal=True)
    minimal = (tmp_path / "minimal.yaml").read_text(encoding="utf-8")
    assert load_experiment(tmp_path / "full.yaml") == load_experiment(tmp_path / "minimal.yaml")
    assert len(minimal.splitlines()) <= 13 + len(values)
    loaded = settings(as_dict(load_experiment(tmp_path / "minimal.yaml")))
    assert {name: loaded[name] for name in values} == values


class AnyContent(Config):
    content: dict


def uncommented(folder: Path, text: str) -> dict:
    """What a template holds when every commented default is taken in."""
    lines = re.sub(r"^( *(?:- )?)#(\w+:)", r"\1\2", text, flags=re.MULTILINE).splitlines()
    path = folder / "all.yaml"
    path.write_text("content:\n" + "".join(f"  {line}\n" for line in lines), encoding="utf-8")
    return load_config(path, AnyContent).content


def test_every_setting_stands_there_with_its_default(tmp_path: Path) -> None:
    write_template(tmp_path / "full.yaml", Experiment, PRETRAINING)
    expected = as_dict(load_experiment(tmp_path / "full.yaml"))
    found = uncommented(tmp_path, FULL)
    # Sections that are null by default are shown with the defaults that they have when given.
    assert expected.pop("compare") is None
    assert expected["model"].pop("lora") is None
    assert found.pop("compare") == as_dict(CompareConfig())
    assert found["model"].pop("lora") == as_dict(LoraConfig())
    assert found == expected


def test_help_and_choices_stand_above_a_setting() -> None:
    assert (
        "  # What one document of a plain text file is. (file, line)\n  #text_documents: file\n"
    ) in FULL
    assert "null: the file's name and row" in FULL
    assert "the proxies'. Same fields as `model`.\n  #model: null\n" in FULL
    assert max(map(len, FULL.splitlines())) <= 100


def test_a_section_in_place_of_a_word_is_a_comment() -> None:
    assert "  #screening: auto\n  # Or a section of:\n  #   sample: 0.06\n  #     Share" in FULL


class Inner(Config):
    """What the section is for."""

    level: Literal["low", "high"] = "low"
    """How much."""


class Outer(Config):
    first: int
    """From the class."""
    inner: Inner = Inner()


Made = msgspec.defstruct(
    "Made",
    [("size", int, 3), ("inner", Inner, Inner())],
    bases=(Config,),
    namespace={"HELP": {"size": "From the mapping."}},
    kw_only=True,
    frozen=True,
)


def test_help_comes_from_the_source_or_the_mapping_or_the_section_s_class() -> None:
    assert field_help(Outer) == {"first": "From the class.", "inner": "What the section is for."}
    assert field_help(Made) == {"size": "From the mapping.", "inner": "What the section is for."}


def test_a_class_that_was_made_by_a_call_is_written_too(tmp_path: Path) -> None:
    text = make_template(Made, {"inner.level": "high"})
    assert "# From the mapping.\n#size: 3\n" in text
    assert "\ninner:\n  # How much. (high, low)\n  level: high\n" in text
    assert uncommented(tmp_path, text) == {"size": 3, "inner": {"level": "high"}}


def test_a_required_setting_without_an_example_has_no_value() -> None:
    assert "\n# From the class.\nfirst: null\n" in make_template(Outer, {"first": None})
    assert "\n# From the class.\n#first: null\n" in make_template(Outer, {})


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("precious")
    with pytest.raises(ConfigError, match=r"my\.yaml: exists already"):
        write_template(tmp_path / "my.yaml", Experiment, PRETRAINING)
    assert (tmp_path / "my.yaml").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent/my\.yaml: cannot be written"):
        write_template(tmp_path / "absent" / "my.yaml", Experiment, PRETRAINING)


def test_the_schema_describes_every_setting_and_refuses_unknown_ones() -> None:
    definitions = make_schema(Experiment)["$defs"]
    assert {"Experiment", "TargetConfig", "ProbeConfig", "ScreeningConfig"} <= set(definitions)
    for name, definition in definitions.items():
        assert definition["additionalProperties"] is False
        for setting, described in definition["properties"].items():
            assert described["description"], f"{name}.{setting}"
    assert definitions["PoolConfig"]["properties"]["text_documents"]["enum"] == ["file", "line"]
