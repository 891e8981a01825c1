"""Reading configuration: YAML with dotted overrides into frozen, checked classes.

Each configuration class stands beside the function it serves; `experiment.py` composes them.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, dataclass_transform

import msgspec
import yaml

from dsdm.errors import ConfigError

MOST_VALUES = 100_000
"""In a YAML file, each reference counted as what it stands for."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every configuration class: immutable, unknown keys are errors."""

    LATER: ClassVar[frozenset[str]] = frozenset()
    """Fields that came when runs had been made without them: `as_dict` leaves them out where they
    have their default, so that those runs are still what they were made with."""


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(
    path: Path, config_type: type[ConfigT], overrides: Sequence[tuple[str, str]] = ()
) -> ConfigT:
    """The configuration in a YAML file, with `("train.lr", "1e-3")`-like overrides applied.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds an unknown key or a wrong type.
    """
    try:
        raw = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, got {type(raw).__name__}.")
    for name, text in overrides:
        _override(raw, name, text)
    return parse_config(raw, config_type, where=str(path))


def parse_config(raw: object, config_type: type[ConfigT], where: str) -> ConfigT:
    """`raw` as a checked `config_type`; `where` opens the message of a ConfigError."""
    try:
        return msgspec.convert(raw, config_type)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        # A name from the file may hold line ends.
        raise ConfigError(f"{where}: {' '.join(str(error).split())}.") from error


# What stands before a URL's host, and what looks like its query: passwords, keys, signatures.
_SECRETS = re.compile(r"""(?<=://)[^/\s'"]*(?=@)|(?<=\?)[^\s'"]*=[^\s'"]*""")


def without_secrets(text: str) -> str:
    """The text without the names, passwords and queries of the URLs in it."""
    return _SECRETS.sub("***", text)


def as_dict(config: object) -> Any:
    """Plain dicts, lists and scalars with the same content, as a JSON file gives them back.

    It is what goes into manifests and reports, so the secrets of URLs are left out.
    """
    return _redacted(
        msgspec.json.decode(msgspec.json.encode(_without_later(config), order="sorted"))
    )


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return without_secrets(value) if isinstance(value, str) and "://" in value else value


def fingerprint(value: object) -> str:
    """16 hexadecimal digits that depend on the content of `value` alone."""
    encoded = msgspec.json.encode(_without_later(value), order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:16]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lines such as `proxies.count: 2 -> 4` for every field that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted({*old, *new}):
            name = f"{prefix}.{key}" if prefix else str(key)
            lines += differences(old.get(key), new.get(key), name)
        return lines
    if _are_sections(old) and _are_sections(new) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [
            line
            for i, (before, after) in pairs
            for line in differences(before, after, f"{prefix}[{i}]" if prefix else "")
        ]
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]


def _without_later(value: object) -> object:
    if isinstance(value, Config):
        return {
            name: _without_later(getattr(value, name))
            for name in value.__struct_fields__
            if name not in value.LATER or getattr(value, name) != _defaults(type(value))[name]
        }
    if isinstance(value, Mapping):
        return {key: _without_later(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_later(item) for item in value]
    return value


@cache
def _defaults(config_type: type[Config]) -> dict[str, Any]:
    """The fields' defaults, of those that have one that is not made anew for each."""
    return {field.name: field.default for field in msgspec.structs.fields(config_type)}


def _are_sections(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _parse_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        ValueError: it is not valid, or references within it make it larger than MOST_VALUES.
    """
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    # A tag such as !!bool on what is none makes the library raise these.
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"a value does not fit its tag ({error!r})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_size(raw)
    return raw


def _check_size(raw: Any) -> None:
    """References may stand for more than memory holds, or for what they are in."""
    waiting, count = [raw], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values, references followed")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, reading `1e-3` as the number that everybody means."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _override(raw: dict[str, Any], name: str, text: str) -> None:
    *parents, leaf = name.split(".")
    node = raw
    for parent in parents:
        if node.get(parent) is None:  # absent, or left empty
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"--{name}: `{parent}` is not a section.")
    try:
        node[leaf] = _parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--{name} {text}: is not a YAML value.") from error
