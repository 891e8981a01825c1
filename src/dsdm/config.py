"""Reading configuration: YAML with dotted overrides into frozen, checked classes.

Each configuration class stands beside the function it serves; `experiment.py` composes them.
"""

import difflib
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform

import msgspec
import yaml

from dsdm.errors import ConfigError

MOST_VALUES = 100_000
"""In a YAML file, each reference counted as the values that it stands for."""
SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9}
"""What a number may end with: `200k`, `1.5M`."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every configuration class: immutable, unknown keys are errors."""


ConfigT = TypeVar("ConfigT", bound=Config)
Place = tuple[str | int, ...]
"""The keys and list positions that lead to a setting."""
_REFUSALS = (msgspec.ValidationError, ValueError, OverflowError)


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file with overrides, not yet checked against a configuration class."""

    path: Path
    text: str
    overrides: Sequence[tuple[str, str]]
    content: dict[str, Any]
    """What the file holds, with the overrides in place."""

    def parse(self, config_type: type[ConfigT]) -> ConfigT:
        """The content as a checked `config_type`.

        Raises:
            ConfigError: a key is unknown, or a value has the wrong type or is refused by its class;
                the message names the line of the file, or the override.
        """
        try:
            return msgspec.convert(self.content, config_type)
        except _REFUSALS as error:
            message, at = _explain(error, config_type)
            raise ConfigError(f"{self._blame(at, config_type)}: {message}") from error

    def _blame(self, at: Place, config_type: type[Config]) -> str:
        """The override that causes an error at a setting, or else the file and line."""
        for name, text in self.overrides:
            names = name.split(".")
            if [str(key) for key in at[: len(names)]] == names:
                return f"--{name} {text}"
        if self.overrides:
            try:
                msgspec.convert(_parse_yaml(self.text), config_type)
            except _REFUSALS:
                pass
            else:  # without the overrides it is good
                return " ".join(f"--{name} {text}" for name, text in self.overrides)
        return f"{self.path}:{_line(self.text, at)}"


def read_config(
    path: Path,
    overrides: Sequence[tuple[str, str]] = (),
    alternatives: Collection[str] = (),
) -> ConfigFile:
    """A YAML file with `("train.lr", "1e-3")`-like overrides applied.

    Args:
        path: The file.
        overrides: Dotted names of settings, and their values as YAML.
        alternatives: Dotted names of settings of which only one may be given: an override of one of
            them takes the place of whichever the file gives.

    Raises:
        ConfigError: the file is missing or is not YAML, or an override is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = _parse_yaml(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, got {type(content).__name__}.")
    if any(name in alternatives for name, _ in overrides):
        for name in alternatives:
            _section(content, name).pop(name.rpartition(".")[2], None)
    for name, value in overrides:
        try:
            _section(content, name)[name.rpartition(".")[2]] = _parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"--{name} {value}: is not a YAML value.") from error
    return ConfigFile(path, text, overrides, content)


@cache
def with_sections(
    base: type[ConfigT], sections: tuple[tuple[str, type[Config], str], ...]
) -> type[ConfigT]:
    """A subclass of `base` with more fields, or other types of its own ones.

    Args:
        base: The class.
        sections: Name, class and one-line help of each field; its default is that of the class.
    """
    fields = [(name, kind, kind()) for name, kind, _ in sections]
    texts = {name: text for name, _, text in sections}
    composed = msgspec.defstruct(
        base.__name__.removeprefix("Common"),
        fields,
        bases=(base,),
        module=base.__module__,
        namespace={"__doc__": base.__doc__, "HELP": texts},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    return cast(type[ConfigT], composed)


def load_config(
    path: Path, config_type: type[ConfigT], overrides: Sequence[tuple[str, str]] = ()
) -> ConfigT:
    """The configuration in a YAML file, with overrides applied.

    Raises:
        ConfigError: as `read_config` and `ConfigFile.parse`.
    """
    return read_config(path, overrides).parse(config_type)


def parse_config(raw: object, config_type: type[ConfigT], where: str) -> ConfigT:
    """`raw` as a checked `config_type`; `where` opens the message of a ConfigError."""
    try:
        return msgspec.convert(raw, config_type)
    except _REFUSALS as error:
        raise ConfigError(f"{where}: {_explain(error, config_type)[0]}") from error


# What stands before a URL's host, and what looks like its query: passwords, keys, signatures.
_SECRETS = re.compile(r"""(?<=://)[^/\s'"]*(?=@)|(?<=\?)[^\s'"]*=[^\s'"]*""")


def without_secrets(text: str) -> str:
    """The text without the names, passwords and queries of the URLs in it."""
    return _SECRETS.sub("***", text)


def as_dict(config: object) -> Any:
    """Plain dicts, lists and scalars with the same content, as a JSON file gives them back.

    It is what goes into manifests and reports, so the secrets of URLs are left out.
    """
    return _redacted(msgspec.json.decode(msgspec.json.encode(config, order="sorted")))


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return without_secrets(value) if isinstance(value, str) and "://" in value else value


def fingerprint(value: object) -> str:
    """16 hexadecimal digits that depend on the content of `value` alone."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lines such as `proxies.count: 2 -> 4` for every field that differs."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        dot = "." if prefix else ""
        for key in sorted({*old, *new}):
            pairs.append((f"{prefix}{dot}{key}", old.get(key), new.get(key)))
    elif _are_sections(old) and _are_sections(new) and len(old) == len(new):
        for i, (before, after) in enumerate(zip(old, new, strict=True)):
            pairs.append((f"{prefix}[{i}]" if prefix else "", before, after))
    else:
        return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]
    return [line for name, one, other in pairs for line in differences(one, other, name)]


def _are_sections(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _explain(error: Exception, config_type: type[Config]) -> tuple[str, Place]:
    """A sentence about an error of msgspec, and the place of the setting."""
    # A name from the file may hold line ends.
    line = " ".join(str(error).split())
    text, path = re.fullmatch(r"(.*?)(?: - at (?:`key` in )?`\$(.*)`)?", line).groups("")  # type: ignore[union-attr]
    keys = re.findall(r"\.(\w+)|\[(\d+)\]", path.partition("[...]")[0])
    at: Place = tuple(name or int(number) for name, number in keys)
    setting = path.removeprefix(".")
    kinds = _kinds(config_type, at)
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        names = [field.name for kind in kinds for field in getattr(kind, "fields", ())]
        where = f" in `{setting}`" if setting else ""
        hint = _near(unknown[1], names) or f"known are {', '.join(names)}."
        return f"unknown field `{unknown[1]}`{where}; {hint}", (*at, unknown[1])
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        return f"missing required field `{f'{setting}.' if setting else ''}{missing[1]}`.", at
    if wrong := re.fullmatch(r"Invalid enum value (.*)", text):
        values = [str(value) for kind in kinds for value in getattr(kind, "values", ())]
        near = _near(wrong[1].strip("'"), values)
        hint = f"; {near}" if near else "."
        return f"`{setting}`: {wrong[1]} is none of {', '.join(values)}{hint}", at
    return (f"`{setting}`: {text}." if setting else f"{text}."), at


def _kinds(config_type: type[Config], at: Place) -> list[Any]:
    """What msgspec knows of the type of a setting, one for each alternative of a union."""
    from msgspec.inspect import ListType, StructType, VarTupleType, type_info

    kinds: list[Any] = [type_info(config_type)]
    for key in at:
        inner: list[Any] = []
        for kind in kinds:
            if isinstance(kind, StructType):
                inner += [field.type for field in kind.fields if field.encode_name == key]
            elif isinstance(kind, ListType | VarTupleType):
                inner.append(kind.item_type)
        kinds = [one for kind in inner for one in getattr(kind, "types", (kind,))]
    return kinds


def none_of(value: str, known: Sequence[str]) -> str:
    """Says that a value is none of those that are known, and which may be meant."""
    near = _near(value, known)
    return f"{value!r} is none of {', '.join(known)}" + (f"; {near}" if near else "")


def _near(wrong: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean `{near[0]}`?" if near else ""


def _line(text: str, at: Place) -> int:
    """The line of a setting in a YAML text, or of the innermost section that leads to it."""
    node: Any = yaml.compose(text, Loader=_Loader)
    line = node.start_mark.line
    for key in at:
        if isinstance(node, yaml.MappingNode):
            entries = {name.value: (name, value) for name, value in node.value}
        else:
            entries = dict(enumerate((item, item) for item in node.value))
        if key not in entries:
            break
        name, node = entries[key]
        line = name.start_mark.line
    return int(line) + 1


def _parse_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        ValueError: it is not valid, or references within it make it larger than MOST_VALUES.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    # A tag such as !!bool on what is none makes the library raise these.
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"a value does not fit its tag ({error!r})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    # References may stand for more than memory holds, or for what they are in.
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values, references followed")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value
    return content


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which reads `1e-3`, `2e5` and `1.5M` as numbers."""


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if not re.search("[eEkMB]", text):
        return float(loader.construct_yaml_float(node))
    number = float(text.rstrip("kMB")) * SUFFIXES.get(text[-1], 1)
    # Counts are whole numbers, however they are written.
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+|[kMB])$"),
    list("-+0123456789."),
)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The section that holds the setting `name`, made where it is absent or left empty."""
    section = content
    for parent in name.split(".")[:-1]:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise ConfigError(f"--{name}: `{parent}` is not a section.")
    return section
