"""Checks of arguments, and text that is safe to show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from shotstream_rt.checks import (
    check_one_of,
    check_path,
    check_range,
    check_seed,
    check_text,
    check_timeout,
)
from shotstream_rt.errors import ConfigError
from shotstream_rt.printable import listed, printable, shown


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.int64, np.uint64, int])
def test_integers_of_every_kind_become_python_integers(kind: type) -> None:
    for found in (check_seed(kind(5)), check_range("x", kind(5), 0, 9)):
        assert found == 5
        assert type(found) is int


@pytest.mark.parametrize(
    "value",
    [True, np.True_, 1.0, np.float32(1), "1", None, [1], 10**5000],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_integer_in_range_is_refused_briefly(value: Any) -> None:
    for check in (lambda: check_seed(value), lambda: check_range("x", value, 0, 9)):
        with pytest.raises(ConfigError) as caught:
            check()
        assert len(str(caught.value)) < 250


class Hostile:
    """Raises whatever is asked of it."""

    def __index__(self) -> int:
        raise RuntimeError("no number")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_a_value_that_raises_is_refused_like_any_other() -> None:
    for check in (check_seed, lambda value: check_range("x", value, 0, 9), check_timeout):
        with pytest.raises(ConfigError, match="Hostile"):
            check(Hostile())


@pytest.mark.parametrize("value", [math.nan, -1, "5", True, 10**400, np.array([1.0])])
def test_what_is_no_time_to_wait_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="timeout_s"):
        check_timeout(value)


@pytest.mark.parametrize("value", [None, 5, b"x", ["x"], "", "a\0b", "\ud800", Hostile()])
def test_what_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="here"):
        check_path("here", value)


@pytest.mark.parametrize("value", [None, [], {}, 5, "x" * 9000, np.array([1, 2])])
def test_a_name_of_another_kind_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="one of a, b") as caught:
        check_one_of("x", value, ("a", "b"))
    assert len(str(caught.value)) < 250


def test_prompts_end_at_ten_thousand_characters() -> None:
    assert check_text("猫" * 10_000) == "猫" * 10_000
    with pytest.raises(ConfigError, match="10001 characters"):
        check_text("猫" * 10_001)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a red cat, 一只红猫, grüner Vogel 🐈", "a red cat, 一只红猫, grüner Vogel 🐈"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("one\nERROR: two\r", r"one\nERROR: two\r"),
        ("\u202etxt.exe\u2066", r"\u202etxt.exe\u2066"),
        ("a\u2028b\u0085c\x9bd", r"a\u2028b\x85c\x9bd"),
        ("\ud800\x00\x7f", r"\ud800\x00\x7f"),
        ("全角\u3000空白\u00a0", "全角\u3000空白\u00a0"),
    ],
)
def test_text_shows_itself_and_does_nothing_else(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_long_text_and_lists_are_shortened() -> None:
    assert len(printable("x" * 10**6)) < 2100
    assert printable("x" * 10**6).endswith("x")
    assert listed(["a\nb"] + ["c"] * 9) == r"a\nb, c, c, c, c, c, c, c and 2 more"


def test_values_are_shown_briefly() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, b"x" * 10**6, 10**5000, deep, list(range(10**5))):
        assert len(shown(value)) < 160
    assert shown(5) == "5"
