"""Frozen dataclasses from JSON objects, strictly: unknown keys, wrong types and ranges are errors.

Called by the run configuration and the ablation tables. Messages name the field by its path in the
file.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from shotstream_rt.errors import ConfigError

T = TypeVar("T")
_SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def read_named(name: str, files: Sequence[Path], what: str) -> tuple[Path, dict[str, Any]]:
    """Read a committed JSON object by name, or any by path.

    Args:
        name: stem of one of ``files``, or a path.
        files: the committed ones.
        what: noun for messages.

    Returns:
        The file and what it holds.

    Raises:
        ConfigError: no such file, not JSON, or not an object.
    """
    known = {path.stem: path for path in sorted(files)}
    path = known.get(name, Path(name))
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{what}: got {name!r}, wanted one of {', '.join(known)} or a JSON file"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: got {type(data).__name__}, wanted a JSON object")
    return path, data


def build(cls: type[T], data: Any, where: str) -> T:
    """Make a dataclass of a JSON object; nested dataclasses likewise.

    Args:
        cls: the dataclass.
        data: the object, with a key for each field that has no default.
        where: what it is, such as ``run.optimiser``; errors begin with it.

    Raises:
        ConfigError: not an object, an unknown or missing key, a wrong type or a value out of range.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: got {type(data).__name__}, wanted an object")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(
            f"{where}: unknown key(s) {', '.join(unknown)}; known: {', '.join(fields)}"
        )
    hints = typing.get_type_hints(cls)
    values = {k: _value(hints[k], v, f"{where}.{k}") for k, v in data.items()}
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing key(s) {', '.join(missing)}")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def require(ok: bool, name: str, got: object, wanted: str) -> None:
    """Raise ``ConfigError`` naming a field unless ``ok``.

    Args:
        ok: whether the value may be used.
        name: the field, by its path in the file.
        got: its value.
        wanted: what it may be, in words.
    """
    if not ok:
        raise ConfigError(f"{name}: got {got!r}, wanted {wanted}")


def plain(value: Any) -> Any:
    """Return nested dataclasses as JSON types; the inverse of ``build``."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [plain(v) for v in value] if isinstance(value, tuple) else value


def _value(hint: Any, value: Any, where: str) -> Any:
    if hasattr(hint, "from_dict"):
        return _from_dict(hint, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list):
            raise ConfigError(f"{where}: got {value!r}, wanted a list")
        return tuple(_value(inner, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is typing.Literal:
        known = typing.get_args(hint)
        require(value in known, where, value, "one of " + ", ".join(known))
        return value
    if hint in _SCALARS:
        fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        require(fits, where, value, _SCALARS[hint])
    return value


def _from_dict(hint: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: got {value!r}, wanted an object")
    try:
        return hint.from_dict(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
