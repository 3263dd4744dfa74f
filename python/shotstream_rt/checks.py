"""Checks of what callers pass in, and have set; each raises ``ConfigError`` naming it."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError
from .printable import shown

if TYPE_CHECKING:
    import torch

MAX_PROMPT_CHARACTERS = 10_000
"""Longest prompt or global caption. The longest one that a text encoder reads has 512 tokens, some
2,500 characters of English; longer ones are cut by the model, with a note."""

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""A surrogate, which no encoding of text has."""


def as_integer(value: object) -> int | None:
    """Return a whole number of any kind (NumPy's too) as an int; None for all else.

    Booleans are no numbers here: ``seed=True`` is a mistake of the caller.
    """
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except Exception:  # a TypeError, or whatever a class of the caller's raises
        return None


def check_seed(seed: object, name: str = "seed") -> int:
    """Return a usable seed.

    Raises:
        ConfigError: not an integer in [0, 2**63) (a NaN, a float and a bool are not).
    """
    number = as_integer(seed)
    if number is None or not 0 <= number < 2**63:
        hint = "" if isinstance(seed, float) and math.isnan(seed) else "; drop fractions and signs"
        raise ConfigError(f"{name}: got {shown(seed)}, wanted an integer from 0 to 2**63 - 1{hint}")
    return number


def check_text(text: object, name: str = "prompt", *, blank: bool = False) -> str:
    """Return a text of valid Unicode, with at most ``MAX_PROMPT_CHARACTERS``.

    Args:
        text: what was given.
        name: of the argument, for the error.
        blank: whether it may be without a word.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{name}: got {type(text).__name__}, wanted a text")
    half = _HALF_CHARACTER.search(text)
    if half or len(text) > MAX_PROMPT_CHARACTERS or not (blank or text.strip()):
        raise ConfigError(f"{name}: {_why_unusable(text, half)}")
    return text


def _why_unusable(text: str, half: re.Match[str] | None) -> str:
    if len(text) > MAX_PROMPT_CHARACTERS:
        return (
            f"got {len(text)} characters, wanted at most {MAX_PROMPT_CHARACTERS}; models read some "
            "hundred words"
        )
    if half is None:
        return f"got {shown(text)}, wanted at least one word"
    return (
        f"character {half.start() + 1} is {half.group()!a}, half of a character; wanted text "
        "encoded as UTF-8"
    )


def check_one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Require one of some names.

    Args:
        name: of the setting, for the message.
        value: what was given.
        known: the names it may be.

    Raises:
        ConfigError: it is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name}: got {shown(value)}, wanted one of {', '.join(known)}")


def check_range(name: str, value: object, low: int, high: int) -> int:
    """Return an integer within inclusive bounds.

    Args:
        name: of the argument, for the message.
        value: what was given; NumPy's integers are taken too.
        low: smallest usable value.
        high: largest usable value.

    Raises:
        ConfigError: it is not an integer, or outside.
    """
    number = as_integer(value)
    if number is None or not low <= number <= high:
        raise ConfigError(f"{name}: got {shown(value)}, wanted an integer from {low} to {high}")
    return number


def check_path(name: str, value: object) -> Path:
    """Return a path that the system can be asked about; whether anything is there is not looked at.

    Raises:
        ConfigError: not a text or a path, empty, or with a character that no file name has.
    """
    if not isinstance(value, str | Path):
        raise ConfigError(f"{name}: got {shown(value)}, wanted the name of a file or folder")
    try:
        usable = os.fsencode(value)
    except UnicodeEncodeError:
        usable = b""
    if not usable or b"\0" in usable:
        raise ConfigError(f"{name}: got {shown(str(value))}, wanted the name of a file or folder")
    return Path(value)


def check_flag(name: str, value: object) -> bool:
    """Return True or False.

    Raises:
        ConfigError: it is neither; a text such as ``"no"`` would count as true.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: got {shown(value)}, wanted True or False")
    return value


def check_timeout(value: object, name: str = "timeout_s") -> float | None:
    """Return seconds to wait, None for no limit.

    Raises:
        ConfigError: not a number, negative, or a NaN.
    """
    if value is None:
        return None
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number beyond all floats
            number = float(value)
    if not number >= 0:
        raise ConfigError(
            f"{name}: got {shown(value)}, wanted seconds from 0 on, or None for no limit"
        )
    return None if math.isinf(number) else number


def check_float_precision(device: torch.device) -> None:
    """Refuse to compute if the host lets float32 products on a CPU be rounded to bfloat16."""
    import torch

    for part in ("matmul", "conv") if device.type == "cpu" else ():
        settings = getattr(torch.backends.mkldnn, part, None)  # None before torch 2.9
        value = settings.fp32_precision if settings else torch.get_float32_matmul_precision()
        if value in ("bf16", "medium"):
            raise _rounded(part, value)


def _rounded(part: str, value: str) -> ConfigError:
    """Return the error for a setting of oneDNN, which is one for the whole process.

    With it the factors of float32 products are rounded where the processor multiplies that faster.
    The film would be another one (nano: some frames off by a hundred of 255 levels). The runtime
    may not change the setting, which a host's own networks are computed with.
    """
    if value == "medium":
        name, remedy = "torch.get_float32_matmul_precision()", "high"
    else:
        name, remedy = f"torch.backends.mkldnn.{part}.fp32_precision", "ieee"
    return ConfigError(
        f"{name}: got {value!r}, with which this film's float32 numbers are rounded on a CPU; "
        f"wanted {remedy!r} (settings of a GPU may stay)"
    )
