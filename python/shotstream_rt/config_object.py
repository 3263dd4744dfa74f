"""What every settings object is made of: JSON in and out, and checks that name the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from .errors import ConfigError
from .printable import listed, shown

T = TypeVar("T", bound="ConfigObject")


def require(ok: bool, name: str, got: object, wanted: str) -> None:
    """Raise ``ConfigError`` unless a field's value is usable.

    Args:
        ok: whether it is.
        name: class and field, such as ``ShotConfig.chunk_frames``.
        got: the value.
        wanted: what it should be, in words.
    """
    if not ok:
        raise ConfigError(f"{name}: got {shown(got)}, wanted {wanted}")


def is_number(value: object, low: float, high: float) -> bool:
    """Tell whether it is a number in a range; a NaN is in none.

    Args:
        value: anything.
        low: least of the range.
        high: greatest of it.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_int(value: object, low: int, high: int = 2**31 - 1) -> bool:
    """Tell whether it is an integer in a range; a bool is none.

    Args:
        value: anything.
        low: least of the range.
        high: greatest of it; by default that of 32 bits.
    """
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


class ConfigObject:
    """JSON in and out, unknown keys rejected.

    Attributes:
        UNLESS_DEFAULT: fields that are written only where they differ from their default, so that
            files and fingerprints from before they existed stay as they are.
    """

    __slots__ = ()
    UNLESS_DEFAULT: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
        """Build from a JSON object.

        Raises:
            ConfigError: an unknown or missing key, or a value out of range.
        """
        require(isinstance(data, Mapping), cls.__name__, data, "a JSON object")
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(map(str, set(data) - set(fields)))
        if unknown:
            raise ConfigError(
                f"{cls.__name__}: unknown key(s) {listed(unknown)}; known: {', '.join(fields)}"
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        data = dataclasses.asdict(self)  # type: ignore[call-overload]
        for entry in dataclasses.fields(self):  # type: ignore[arg-type]
            if entry.name in self.UNLESS_DEFAULT and data[entry.name] == entry.default:
                del data[entry.name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}
