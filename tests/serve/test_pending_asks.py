"""What becomes of asks, told once each: the first frame that shows it, or why none will."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from shotstream_rt.errors import ConfigError
from shotstream_rt.serve.from_server import Applied, Over
from shotstream_rt.serve.metrics import Metrics
from shotstream_rt.serve.pending_asks import PendingAsks
from shotstream_rt.types import Frame, Place, Receipt

PIXELS = np.zeros((2, 2, 3), np.uint8)


class Asks:
    """Pending asks, and what was told of them."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.pending = PendingAsks(self.told.append, Metrics())

    def ask(self, id: str, first: int = 0) -> Receipt:
        receipt = Receipt("cut")
        self.pending.add(id, receipt, 0.0, first)
        return receipt

    def send(self, number: int, index: int, shot: int = 0) -> None:
        self.pending.sent(number, Frame(PIXELS, index, shot, index // 12, index / 16))
        self.pending.settle()

    def taken(self) -> list[tuple[str, Any]]:
        """Return what was told since the last call: id, and the frame or what became of it."""
        values = []
        for message in self.told:
            assert isinstance(message, Applied | Over)
            shown = message.frame if isinstance(message, Applied) else message.state
            values.append((message.id, shown))
        self.told.clear()
        return values


def test_an_ask_is_shown_by_the_frame_at_its_place_and_told_once() -> None:
    asks = Asks()
    receipt = asks.ask("a")
    asks.send(0, 0)
    receipt.decide("applied", Place(0, 0, 0, 2))
    asks.send(1, 1)
    assert asks.taken() == []
    asks.send(2, 2)
    asks.send(3, 3)
    assert asks.taken() == [("a", 2)]
    assert len(asks.pending) == 0


def test_a_frame_that_was_shown_before_its_ask_was_noted_counts() -> None:
    asks = Asks()
    asks.send(7, 7)
    asks.ask("a", first=7).decide("applied", Place(0, 0, 0, 7))
    asks.pending.settle()
    assert asks.taken() == [("a", 7)]


def test_after_an_undo_the_frame_that_had_the_number_before_does_not_count() -> None:
    asks = Asks()
    for number in range(30):
        asks.send(number, number)
    asks.ask("undo", first=30).decide("applied", Place(0, 0, 1, 12))
    asks.send(30, 30)  # was on its way
    assert asks.taken() == []
    asks.send(31, 12)
    assert asks.taken() == [("undo", 31)]


def test_what_will_not_be_shown_says_why() -> None:
    asks = Asks()
    for state in ("superseded", "late", "cancelled"):
        asks.ask(state).decide(state)  # type: ignore[arg-type]
    asks.ask("failed").decide("failed", error=ConfigError("why"))
    asks.ask("waits")
    asks.pending.settle()
    assert asks.told[-1].message == "why"
    assert asks.taken() == [(s, s) for s in ("superseded", "late", "cancelled", "failed")]
    assert len(asks.pending) == 1


def test_where_a_fault_of_the_server_lies_is_not_told() -> None:
    asks = Asks()
    asks.ask("failed").decide("failed", error=ValueError("in /secret/folder"))
    asks.pending.settle()
    assert asks.told[-1].message == "ValueError: the server's log says more"


def test_an_ask_that_a_newer_one_went_ahead_of_is_superseded() -> None:
    asks = Asks()
    asks.ask("old").decide("applied", Place(0, 0, 1, 12))
    waiting = asks.ask("waits")
    asks.ask("new").decide("applied", Place(1, 0, 0, 9))
    asks.send(9, 9, shot=1)
    assert asks.taken() == [("old", "superseded"), ("new", 9)]
    waiting.decide("cancelled")
    asks.pending.settle()
    assert asks.taken() == [("waits", "cancelled")]


def test_only_the_last_asks_that_are_shown_can_be_told_of_as_seen() -> None:
    asks = Asks()
    for number in range(100):
        asks.ask(f"a{number}", first=number).decide("applied", Place(0, 0, 0, number))
        asks.send(number, number)
    long_s = time.monotonic() + 1
    asks.pending.seen("a99", long_s)
    asks.pending.seen("a40", long_s)
    for id in ("a99", "a30", "a100"):
        with pytest.raises(ConfigError, match="glass"):
            asks.pending.seen(id, long_s)
