"""When frames are due, and how well the picture went on."""

from __future__ import annotations

import threading
import time

import pytest

from shotstream_rt.serve.pace import Pace
from shotstream_rt.serve.play_ratio import PlayRatio
from shotstream_rt.serve.scheduler import Scheduler

RATE = 10


@pytest.fixture
def pace() -> Pace:
    return Pace(Scheduler(), RATE)


@pytest.fixture
def ended() -> threading.Event:
    """Set, so that nothing is waited for."""
    event = threading.Event()
    event.set()
    return event


def test_the_first_frame_is_due_when_it_is_there_and_the_next_an_interval_later(
    pace: Pace, ended: threading.Event
) -> None:
    now_s = time.monotonic() + 100
    assert pace.late_s(now_s) == 0
    pace.wait(now_s, ended)
    pace.advance()
    assert pace.due_s() == pytest.approx(now_s + 0.1)
    assert pace.late_s(now_s + 0.05) == 0
    assert pace.late_s(now_s + 0.15) == pytest.approx(0.05)


def test_a_frame_that_is_a_little_late_leaves_the_clock_and_a_later_one_moves_it(
    pace: Pace, ended: threading.Event
) -> None:
    now_s = time.monotonic() + 100
    pace.wait(now_s, ended)
    pace.advance()
    pace.wait(now_s + 0.15, ended)
    assert pace.due_s() == pytest.approx(now_s + 0.1)
    pace.wait(now_s + 0.25, ended)
    assert pace.due_s() == pytest.approx(now_s + 0.25)


def test_a_film_that_waited_is_due_when_it_is_asked(pace: Pace, ended: threading.Event) -> None:
    now_s = time.monotonic() + 100
    pace.wait(now_s, ended)
    pace.ask(now_s + 50)
    assert pace.due_s() == now_s + 50
    assert pace.late_s(now_s + 51) == pytest.approx(1)
    pace.restart()
    assert pace.late_s(now_s + 1000) == 0, "it wakes"


def test_the_play_ratio_is_that_of_the_last_half_minute() -> None:
    ratio = PlayRatio(RATE)
    assert ratio.value == 1
    for at in range(10):
        ratio.add(100 + at / RATE, 0.1)
    assert ratio.value == pytest.approx(0.5)
    for at in range(10):
        ratio.add(140 + at / RATE, 0.0)
    assert ratio.value == 1
