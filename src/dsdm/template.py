"""What `dsdm new` and `dsdm schema` write, made from the configuration classes.

A field's help is the string under it in its class. Where a class has no source, as one made by
`msgspec.defstruct`, it is the class attribute `HELP`, a mapping by field, or what the docstring of
the field's own class opens with.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec.inspect import Field, ListType, LiteralType, StructType, VarTupleType, type_info

from dsdm.config import Config, as_dict
from dsdm.errors import ConfigError

PRETRAINING: Mapping[str, Any] = {
    "run": "runs/mine",
    "pool.files": ["data/pool"],
    "targets.name": "mine",
    "targets.file": "data/mine.jsonl",
    "model.config": {
        "model_type": "gpt2",
        "n_positions": 256,
        "n_embd": 128,
        "n_layer": 4,
        "n_head": 4,
    },
    "selection.fraction": 0.1,
}
"""The settings that a first run needs, by dotted name."""
FINETUNING: Mapping[str, Any] = {
    "run": "runs/mine",
    "pool.files": ["data/conversations.jsonl"],
    "pool.format": "conversations",
    "pool.max_rejected_share": 0.05,
    "targets.name": "support",
    "targets.file": "data/support.jsonl",
    "targets.chat": True,
    "model.path": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "model.lora.rank": 8,
    "examples.row_tokens": 1024,
    "proxies.count": 1,
    "proxies.fraction": 0.1,
    "proxies.epochs": 4.0,
    "proxies.train.lr": 5e-4,
    "proxies.train.batch_rows": 16,
    "directions.estimators": ["ekfac"],
    "directions.context_share": 0.0,
    "scores.cosine": True,
    "selection.candidates": 2000,
    "export.format": "jsonl",
}
"""The settings that docs/finetune.md recommends."""

EDITOR = """\
# For completion in an editor: run `dsdm schema > dsdm.schema.json` and remove a # of the next line.
## yaml-language-server: $schema=dsdm.schema.json
"""
FULL = f"""\
{EDITOR}
# What to select from, for what, with which model, and how much. Fill in the first part, then:
#   dsdm run THIS_FILE --dry-run    says what it will cost
#   dsdm run THIS_FILE              does it; after an interruption, the same command again
# A line such as `#seed: 0` shows a default: to change it, take away the `#`, here and in the line
# of its section. Paths are relative to the folder where `dsdm` is started.
"""
MINIMAL = """\
# `dsdm run THIS_FILE --dry-run` says what it will cost, `dsdm run THIS_FILE` does it.
# `dsdm new FILE` writes every other setting with its default and its help.
"""
REST = "# ================ The rest may stay as it is. ================"
WIDTH = 100


def write_template(
    path: Path, config_type: type[Config], values: Mapping[str, Any], minimal: bool = False
) -> None:
    """Writes a new configuration file.

    Raises:
        ConfigError: the file exists, or can't be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(make_template(config_type, values, minimal))
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already. Name another file, or delete it.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}).") from error


def make_template(
    config_type: type[Config], values: Mapping[str, Any], minimal: bool = False
) -> str:
    """YAML of a configuration in which `values` are set.

    Args:
        config_type: The class of the whole file.
        values: By dotted name; of a list of sections, those of its first item.
        minimal: Write `values` alone. Otherwise every other setting stands there too, with its help
            as a comment, and its default commented out.
    """
    writer = _Writer(values, minimal)
    writer.write(_struct(config_type), "", "", None)
    return (MINIMAL if minimal else FULL) + "".join(f"{line}\n" for line in writer.lines)


def make_schema(config_type: type[Config]) -> dict[str, Any]:
    """The JSON schema of a configuration, with the help texts as descriptions."""
    schema = msgspec.json.schema(config_type)
    classes = list(_classes(_struct(config_type)))
    references, _ = msgspec.json.schema_components(classes)
    for owner, reference in zip(classes, references, strict=True):
        properties = schema["$defs"][reference["$ref"].rpartition("/")[2]]["properties"]
        for name, text in field_help(owner).items():
            properties[name]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def field_help(owner: type) -> dict[str, str]:
    """The help text of each field of a configuration class, in one line."""
    texts: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # it was not written as source
            continue
        for statement, after in pairwise(getattr(tree.body[0], "body", ())):
            match statement, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                    texts[name] = text
    texts |= getattr(owner, "HELP", {})
    for setting in _struct(owner).fields:
        section, _ = _section(setting)
        if setting.name not in texts and section is not None:
            texts[setting.name] = (section.cls.__doc__ or "").partition("\n\n")[0]
    return {name: " ".join(text.split()) for name, text in texts.items()}


def _struct(owner: type) -> StructType:
    kind = type_info(owner)
    assert isinstance(kind, StructType)
    return kind


def _section(setting: Field) -> tuple[StructType | None, bool]:
    """The class that a setting's own settings are in, and whether it is a list of such."""
    for kind in getattr(setting.type, "types", (setting.type,)):
        if isinstance(kind, StructType):
            return kind, False
        if isinstance(kind, ListType | VarTupleType) and isinstance(kind.item_type, StructType):
            return kind.item_type, True
    return None, False


def _classes(kind: StructType) -> Iterator[type]:
    """A class and all that its fields lead to; one may come several times."""
    yield kind.cls
    for setting in kind.fields:
        section, _ = _section(setting)
        if section is not None:
            yield from _classes(section)


@dataclass
class _Writer:
    """Writes the lines of a template, section by section."""

    values: Mapping[str, Any]
    minimal: bool
    lines: list[str] = field(default_factory=list)
    shown: dict[type, str] = field(default_factory=dict)
    """The dotted name under which each class was shown first."""

    def write(self, kind: StructType, prefix: str, pad: str, defaults: object) -> None:
        """Adds the settings of one section.

        Args:
            kind: The section's class.
            prefix: Its dotted name with a dot behind it; empty for the whole file.
            pad: What stands in front of each of its lines.
            defaults: An instance that holds its defaults; None: those of the class.
        """
        self.shown.setdefault(kind.cls, prefix.removesuffix("."))
        help_texts = field_help(kind.cls)
        # In the whole file, what must be filled in comes first.
        for setting in sorted(kind.fields, key=lambda s: not prefix and not s.required):
            if not prefix and not setting.required and REST not in self.lines and not self.minimal:
                self.lines += ["", REST]
            default = _default(setting) if defaults is None else getattr(defaults, setting.name)
            self.add(setting, prefix + setting.name, pad, default, help_texts.get(setting.name, ""))

    def add(self, setting: Field, name: str, pad: str, default: Any, text: str) -> None:
        """Adds one setting, whose help is `text`, and what is in it."""
        is_given = any(f"{given}.".startswith(f"{name}.") for given in self.values)
        if self.minimal and not is_given:
            return
        section, is_list = _section(setting)
        first = self.shown.get(section.cls) if section else None
        if section and not setting.required and (is_list or default is None) and first:
            text += f" Same fields as `{first}`."
            section = None
        if not self.minimal:
            self.lines += [] if pad else [""]
            self.comment(text + _choices(setting, text), pad)
        mark = "" if is_given else "#"
        if section is None or not isinstance(default, msgspec.Struct | None):
            value = _flow(self.values.get(name, as_dict(default)))
            self.lines.append(f"{pad}{mark}{setting.name}: {value}")
            if section is not None and not is_list:
                self.alternative(section, pad)
            return
        self.lines.append(f"{pad}{mark}{setting.name}:")
        start = len(self.lines)
        self.write(section, f"{name}.", pad + "  " * (1 + is_list), default)
        if is_list:
            self.lines[start] = f"{pad}  - {self.lines[start].lstrip()}"

    def alternative(self, section: StructType, pad: str) -> None:
        """Adds, as a comment, the settings that may stand in place of a single value."""
        self.lines.append(f"{pad}# Or a section of:")
        texts = field_help(section.cls)
        for setting in section.fields:
            self.lines.append(f"{pad}#   {setting.name}: {_flow(as_dict(_default(setting)))}")
            self.comment(texts.get(setting.name, ""), f"{pad}#     ")

    def comment(self, text: str, pad: str) -> None:
        """Adds a text as lines of comment."""
        text = re.sub(r"\bNone\b", "null", text)
        start = pad if "#" in pad else f"{pad}# "
        self.lines += [start + line for line in textwrap.wrap(text, WIDTH - len(start))]


def _default(setting: Field) -> Any:
    """The default; None where a value is required."""
    if setting.default_factory is not msgspec.NODEFAULT:
        return setting.default_factory()
    return None if setting.required else setting.default


def _choices(setting: Field, text: str) -> str:
    """The values that a setting may have, where its help does not name them all."""
    kinds = getattr(setting.type, "types", (setting.type,))
    kinds = [getattr(kind, "item_type", kind) for kind in kinds]
    values = [str(v) for kind in kinds if isinstance(kind, LiteralType) for v in kind.values]
    return "" if all(f"`{value}`" in text for value in values) else f" ({', '.join(values)})"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()
