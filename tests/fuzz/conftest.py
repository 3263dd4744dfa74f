"""Damaged inputs by the thousand: what comes of each is a result or one of our errors.

A run of the suite makes some hundred inputs per surface, the same ones every time.
``SHOTSTREAM_FUZZ_SECONDS=600`` goes on for so many seconds, which the surfaces share, with ever new
ones, and ``SHOTSTREAM_FUZZ_SEED`` starts elsewhere: ``make fuzz``. The summary counts the inputs.
"""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shotstream_rt.errors import ShotStreamError

SECONDS = float(os.environ.get("SHOTSTREAM_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("SHOTSTREAM_FUZZ_SEED", "0"))

_COUNTS = pytest.StashKey[list[str]]()
_SURFACES = pytest.StashKey[int]()

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 16, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e-300, 1e300,
    float("nan"), float("inf"), "", "x", "../../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000,
    "\x1b[31m\n", "\ud800", [], {}, [[]], [1], ["x"], {"": 1}, [[[[[[[[[[]]]]]]]]]],
)  # fmt: skip
ODD_TEXTS = (
    "", "null", "[", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"format":' + "9" * 5000 + "}",
    "\ufeff{}", "{}" * 3, '{"a":1,"a":2}', "NaN", "\0",
)  # fmt: skip


class Mutator:
    """Damages bytes and JSON values; the same seed does the same damage."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def data(self, good: bytes) -> bytes:
        """Return bytes with one to many faults in them."""
        data = bytearray(good)
        for _ in range(self.random.choice((1, 1, 1, 2, 5, 30))):
            place = self.random.randrange(len(data) + 1)
            kind = self.random.randrange(8)
            if not data or kind == 0:
                data[place:place] = self.random.randbytes(self.random.choice((1, 4, 100)))
            elif kind == 1:
                data = data[:place]
            elif kind == 2:
                begin = self.random.randrange(len(data))
                data[place:place] = data[begin : begin + self.random.randrange(200)]
            elif kind == 3:
                size = self.random.choice((1, 2, 4, 8))
                value = self.random.choice((0, 1, 255, 2 ** (8 * size - 1), 2 ** (8 * size) - 1))
                data[place : place + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
            else:
                place = min(place, len(data) - 1)
                data[place] ^= 1 << self.random.randrange(8)
        return bytes(data)

    def value(self, good: Any) -> Any:
        """Return a copy of a JSON value with one to some of its parts replaced."""
        value = json.loads(json.dumps(good))
        for _ in range(self.random.choice((1, 1, 2, 4))):
            holders = [part for part in _parts(value) if part]
            if not holders:
                return copy.deepcopy(self.random.choice(ODD_VALUES))
            holder = self.random.choice(holders)
            key = self.random.choice(
                list(holder) if isinstance(holder, dict) else [*range(len(holder))]
            )
            kind = self.random.randrange(6)
            if kind == 0:
                del holder[key]
            elif kind == 1 and isinstance(holder, dict):
                holder[self.random.choice(("", "x", "\x1b", "k" * 3000))] = holder[key]
            else:
                holder[key] = copy.deepcopy(self.random.choice(ODD_VALUES))
        return value

    def text(self, good: Any) -> bytes:
        """Return a damaged JSON file: its values, its text or its bytes are damaged."""
        kind = self.random.randrange(10)
        if kind == 0:
            return self.random.choice(ODD_TEXTS).encode()
        if kind < 3:
            return self.data(json.dumps(good).encode())
        return json.dumps(self.value(good)).encode("utf-8", "surrogatepass")


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _parts(part)


class Surface:
    """Runs a reader on damaged inputs and counts what came of them."""

    def __init__(self, config: pytest.Config, name: str) -> None:
        self._counts = config.stash.setdefault(_COUNTS, [])
        self._name = name
        self.seed = SEED
        self.seconds = SECONDS / config.stash[_SURFACES]

    def run(self, attempt: Callable[[Mutator], None], inputs: int, in_ten_minutes: int = 0) -> None:
        """Try a reader on at least ``inputs`` inputs.

        Args:
            attempt: makes one damaged input and reads it. What it raises must be one of our errors.
            inputs: how many; more where ``SHOTSTREAM_FUZZ_SECONDS`` asks for time.
            in_ten_minutes: how many at least in a run of 600 seconds, however slow the reader is.
        """
        end, count, refused = time.monotonic() + self.seconds, 0, 0
        inputs = max(inputs, round(in_ten_minutes * SECONDS / 480))  # make fuzz: four fifths
        while count < inputs or time.monotonic() < end:
            seed = SEED + count
            try:
                attempt(Mutator(seed))
            except ShotStreamError as error:
                refused += 1
                assert len(str(error)) < 4000, f"{self._name}, seed {seed}: {len(str(error))} long"
                assert "\x1b" not in str(error), f"{self._name}, seed {seed}: terminal escapes"
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | pytest.fail.Exception):
                    raise
                raise AssertionError(
                    f"{self._name}, seed {seed}: raw {type(error).__name__}: {str(error)[:300]}"
                ) from error
            count += 1
        self.tell(f"{count} inputs, {refused} refused, the rest read")
        assert refused > 0

    def tell(self, counts: str) -> None:
        """Let the summary say what was tried."""
        self._counts.append(f"{self._name}: {counts}")


@pytest.fixture
def surface(request: pytest.FixtureRequest) -> Surface:
    """The surface that a test is named for."""
    return Surface(request.config, request.node.name.removeprefix("test_"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the surfaces that share the seconds."""
    fixtures = (getattr(item, "fixturenames", ()) for item in session.items)
    session.config.stash[_SURFACES] = sum("surface" in names for names in fixtures)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the inputs of every surface."""
    for line in terminalreporter.config.stash.get(_COUNTS, []):
        terminalreporter.write_line(f"fuzz: {line}")
