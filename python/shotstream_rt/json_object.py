"""Dataclasses from JSON objects that others wrote: every key known, every value of its kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import ManifestError
from .printable import listed, shown

_Object = TypeVar("_Object")


def from_json(kind: type[_Object], data: object, what: str) -> _Object:
    """Make a dataclass of a JSON object's values; its fields may be dataclasses again, or tuples.

    Args:
        kind: the dataclass.
        data: the values by name.
        what: for messages.

    Raises:
        ManifestError: no object, or a key that is missing, unknown or of a wrong kind.
    """
    if not isinstance(data, Mapping):
        raise ManifestError(f"{what}: got {shown(data)}, wanted a JSON object")
    hints = get_type_hints(kind)
    needed = {
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING
    }
    if wrong := [key for key in data if key not in hints]:
        raise ManifestError(f"{what}: unknown key(s) {listed(wrong)}")
    if missing := sorted(needed - data.keys()):
        raise ManifestError(f"{what}: missing key(s) {listed(missing)}")
    return kind(**{key: _value(data[key], hints[key], f"{what}: {key}") for key in data})


def _value(value: object, hint: Any, what: str) -> Any:
    """Return a JSON value as what a field declares.

    Args:
        value: the value.
        hint: the field's type.
        what: for messages.

    Raises:
        ManifestError: it is of another kind.
    """
    if isinstance(hint, UnionType) and value is not None:  # such as ``Correctness | None``
        hint = next(filter(dataclasses.is_dataclass, get_args(hint)), hint)
    if dataclasses.is_dataclass(hint) and not isinstance(value, hint):  # type: ignore[arg-type]
        return from_json(hint, value, what)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ManifestError(f"{what} is {shown(value)}, wanted a list")
        element = get_args(hint)[0]
        return tuple(_value(one, element, f"{what} {at}") for at, one in enumerate(value))
    if get_origin(hint) is Mapping and isinstance(value, Mapping):
        return {key: _value(one, get_args(hint)[1], f"{what} {key}") for key, one in value.items()}
    if not _fits(value, hint):
        raise ManifestError(f"{what} is {shown(value)}, wanted {getattr(hint, '__name__', hint)}")
    return value


def _fits(value: object, hint: Any) -> bool:
    """Tell whether a JSON value has the type that a field declares."""
    if isinstance(hint, UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, NoneType):
        return isinstance(value, hint)
    # Others are checked where they are made, such as names of which only some are known.
    return isinstance(value, Mapping) if get_origin(hint) is Mapping else True
