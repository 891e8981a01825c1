"""The template of `dsdm new` and the configuration classes say the same."""

import ast
import inspect
import re
import textwrap
import types
import typing
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import yaml

from dsdm.config import Config, as_dict, parse_config
from dsdm.data.tasks import TargetConfig
from dsdm.errors import ConfigError
from dsdm.experiment import Experiment, load_experiment
from dsdm.lm.config import TrainConfig
from dsdm.template import TEMPLATE, write_template

LINES = TEMPLATE.read_text(encoding="utf-8").splitlines()
SETTING = re.compile(r"^( *)(?:- )?#?(\w+):(?: (.*))?$")
SHOWN_ELSEWHERE = {
    "compare.model": "model",
    "compare.train": "proxies.train",
    "compare.heldout": "targets",
}
FILLED = {"run", "pool.files", "targets.name", "targets.file", "model.config", "selection.fraction"}


def test_a_new_file_is_the_template(tmp_path: Path) -> None:
    write_template(tmp_path / "my.yaml")
    assert (tmp_path / "my.yaml").read_bytes() == TEMPLATE.read_bytes()


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("precious")
    with pytest.raises(ConfigError, match=r"my\.yaml: exists already"):
        write_template(tmp_path / "my.yaml")
    assert (tmp_path / "my.yaml").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent/my\.yaml: cannot be written"):
        write_template(tmp_path / "absent" / "my.yaml")


def test_the_template_loads_as_it_is() -> None:
    experiment = load_experiment(TEMPLATE, [])
    assert experiment.selection.fraction == 0.1
    assert load_experiment(TEMPLATE, [("pool.files", "[other]")]).pool.files == ["other"]


def test_every_setting_stands_in_the_template_once() -> None:
    shown = [path for path, _ in settings()]
    assert len(set(shown)) == len(shown)
    assert set(shown) == {path for path, _, _ in fields(Experiment)}


def test_every_default_in_the_template_is_the_real_one() -> None:
    raw = uncommented()
    for path, _, field in fields(Experiment):
        is_section = config_in(field.type) is not None and path not in SHOWN_ELSEWHERE
        if not (field.required or is_section or path in FILLED):
            assert shown_value(raw, path) == as_dict(default_of(field)), path


def test_uncommenting_every_setting_adds_the_comparison_alone() -> None:
    raw = uncommented()
    del raw["model"]["lora"]  # adapters are for a model that is given by `path`
    del raw["scores"]["screening"]
    with_all = as_dict(parse_config(raw, Experiment, "template"))
    assert with_all | {"compare": None} == as_dict(load_experiment(TEMPLATE, []))


def test_every_help_text_stands_above_its_setting() -> None:
    above = dict(settings())
    for path, owner, field in fields(Experiment):
        text = help_texts(owner).get(field.name, "")
        assert text.replace("None:", "null:") in above[path], path


def fields(owner: type[Config], prefix: str = ""):
    """Dotted path, class and field of every setting, sections included."""
    for field in msgspec.structs.fields(owner):
        path = f"{prefix}{field.name}"
        yield path, owner, field
        part = config_in(field.type)
        if part is not None and path not in SHOWN_ELSEWHERE:
            yield from fields(part, f"{path}.")


def config_in(annotation: object) -> type[Config] | None:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    if typing.get_origin(annotation) in (tuple, types.UnionType, typing.Union):
        return next(filter(None, map(config_in, typing.get_args(annotation))), None)
    return None


def settings():
    """Dotted path of each setting in the template, and the comment above it."""
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in LINES:
        match = SETTING.match(line)
        if match is None:
            text = line.strip().removeprefix("- ").removeprefix("#").strip()
            comment = [*comment, text] if text else []
            continue
        indent, name, _ = match.groups()
        parents = [(at, parent) for at, parent in parents if at < len(indent)]
        yield ".".join([*(parent for _, parent in parents), name]), " ".join(comment)
        parents.append((len(indent), name))
        comment = []


def uncommented() -> dict:
    text = "\n".join(re.sub(r"^( *)#(\w+:)", r"\1\2", line) for line in LINES)
    # What PyYAML reads as text and dsdm as a number.
    return yaml.safe_load(text.replace("2e-3", "2.0e-3"))


def shown_value(raw: dict, path: str) -> object:
    value: object = raw
    for name in path.split("."):
        value = value[0][name] if isinstance(value, list) else value[name]
    return value


def default_of(field: msgspec.structs.FieldInfo) -> object:
    if field.default is msgspec.NODEFAULT:
        return field.default_factory()
    # A section with none of its settings is all defaults.
    return {} if isinstance(field.default, TrainConfig) else field.default


def help_texts(owner: type[Config]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    body = tree.body[0].body
    return {
        field.target.id: " ".join(after.value.value.split())
        for field, after in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr)
    }


def test_the_walk_over_the_settings_reaches_the_innermost() -> None:
    paths = {path for path, _, _ in fields(Experiment)}
    assert {"targets.delimiter", "proxies.train.lr", "compare.parts"} <= paths
    assert config_in(tuple[TargetConfig, ...]) is TargetConfig
