"""Checks of what callers pass in; each raises ``ConfigError`` naming the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .errors import ConfigError


def check_seed(seed: object, name: str = "seed") -> int:
    """Return a usable seed.

    Raises:
        ConfigError: not an integer in [0, 2**63) (a NaN, a float and a bool are not).
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        hint = "" if isinstance(seed, float) and math.isnan(seed) else "; drop fractions and signs"
        raise ConfigError(f"{name}: got {seed!r}, wanted an integer from 0 to 2**63 - 1{hint}")
    return seed


def check_text(text: object, name: str = "prompt") -> str:
    """Return a usable prompt.

    Raises:
        ConfigError: not a text, or nothing but blanks.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{name}: got {type(text).__name__}, wanted a text")
    if not text.strip():
        raise ConfigError(f"{name}: got {text!r}, wanted at least one word")
    return text


def check_one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Require one of some names.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in known:
        raise ConfigError(f"{name}: got {value!r}, wanted one of {', '.join(known)}")


def check_range(name: str, value: object, low: int, high: int) -> None:
    """Require an integer within inclusive bounds.

    Raises:
        ConfigError: it is not an integer, or outside.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name}: got {value!r}, wanted an integer from {low} to {high}")
