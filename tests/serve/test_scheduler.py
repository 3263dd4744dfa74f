"""Who computes next: turns by slack and by arrival, on a clock that tests set."""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from shotstream_rt.serve.scheduler import FilmTurn, Scheduler
from shotstream_rt.serve.throughput import Throughput

RATE = 10.0
"""Frames per second of the films here; a chunk has ten."""


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Film:
    """Asks for turns as a session's generator does, and remembers when it was woken."""

    def __init__(self, scheduler: Scheduler, due_s: Callable[[], float]) -> None:
        self.turn: FilmTurn = scheduler.turn(due_s, frame_rate_hz=RATE)
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def take(self, ahead: int = 0) -> bool:
        return self.turn.take(ahead, self.wake)

    def make(self, frames: int = 10) -> None:
        """Give the turn back behind a chunk that is decoded at once."""
        assert self.turn.held
        self.turn.give_back(frames)
        self.turn.decoded()


def due(at_s: float) -> Callable[[], float]:
    return lambda: at_s


def test_a_film_alone_never_waits(clock: Clock) -> None:
    film = Film(Scheduler(clock=clock), due(0))
    for _ in range(3):
        assert film.take()
        assert film.take(), "may be repeated"
        film.make()
    assert film.woken == 0


def test_the_film_whose_picture_runs_dry_first_goes_next(clock: Clock) -> None:
    scheduler = Scheduler(clock=clock)
    running = Film(scheduler, due(0))
    assert running.take()
    # The third has frames for half a second, the second has fewer but they are due later.
    first, second, third = (Film(scheduler, due(at)) for at in (103, 102.7, 101.9))
    assert not any((first.take(), second.take(2), third.take(5)))
    assert scheduler.waiting == 3
    order = []
    film = running
    for _ in range(3):
        film.make()
        (film,) = (other for other in (first, second, third) if other.turn.held)
        order.append(film)
        assert film.woken == 1
    assert order == [third, second, first]


def test_first_come_goes_by_who_asked_first(clock: Clock) -> None:
    scheduler = Scheduler(policy="first_come", clock=clock)
    running = Film(scheduler, due(0))
    assert running.take()
    late, urgent = Film(scheduler, due(200)), Film(scheduler, due(0))
    assert not late.take()
    assert not urgent.take()
    assert not late.take(), "asking again keeps the place in the line"
    running.make()
    assert late.turn.held


def test_what_is_asked_meanwhile_counts(clock: Clock) -> None:
    scheduler = Scheduler(clock=clock)
    running, calm, cut = (Film(scheduler, due(at)) for at in (0, 101, 102))
    assert running.take()
    assert not calm.take()
    assert not cut.take(30)
    cut.turn.hurry()
    assert not cut.take(0), "its frames were dropped"
    calm.take(12)
    running.make()
    assert cut.turn.held


def test_a_film_that_makes_without_showing_leaves_the_others_their_turns(clock: Clock) -> None:
    scheduler = Scheduler(clock=clock)
    wakes = Film(scheduler, due(clock.now_s))  # its picture ran dry, and goes on only after a while
    wakes.turn.hurry()
    clock.now_s = 100.1
    assert wakes.take()
    playing = Film(scheduler, due(100.5))
    assert not playing.take()
    clock.now_s = 100.2
    wakes.make()
    assert playing.turn.held
    assert not wakes.take()
    clock.now_s = 100.4
    playing.make()
    assert wakes.turn.held, "but what nobody else uses is its own"


def test_an_ask_is_urgent_although_the_film_has_just_had_its_turn(clock: Clock) -> None:
    scheduler = Scheduler(clock=clock)
    asked, other = Film(scheduler, lambda: clock.now_s), Film(scheduler, due(101))
    assert asked.take()
    assert not other.take()
    asked.turn.hurry()
    clock.now_s = 100.1
    asked.make(0)  # given up for the ask
    assert other.turn.held
    assert not asked.take()
    third = Film(scheduler, due(100.3))
    assert not third.take()
    clock.now_s = 100.2
    other.make()
    assert asked.turn.held
    asked.turn.hurry()
    clock.now_s = 100.3
    asked.make()  # begun before the ask, so it is no answer to it
    assert third.turn.held
    asked.take()
    fourth = Film(scheduler, due(100.4))
    fourth.take()
    third.make()
    assert asked.turn.held


def test_a_film_that_nobody_watches_goes_last(clock: Clock) -> None:
    scheduler = Scheduler(clock=clock)
    running, job, played = Film(scheduler, due(0)), Film(scheduler, due(math.inf)), Film(
        scheduler, due(1e6)
    )  # fmt: skip
    assert running.take()
    assert not job.take()
    assert not played.take()
    running.make()
    assert played.turn.held
    played.make()
    assert job.turn.held


def test_several_compute_at_once_where_there_is_room(clock: Clock) -> None:
    scheduler = Scheduler(places=2, clock=clock)
    films = [Film(scheduler, due(at)) for at in range(4)]
    assert [film.take() for film in films] == [True, True, False, False]
    films[1].make()
    assert [film.turn.held for film in films] == [True, False, True, False]


def test_no_turn_begins_while_many_chunks_are_decoded(clock: Clock) -> None:
    scheduler = Scheduler(clock=clock)
    films = [Film(scheduler, due(at)) for at in range(4)]
    for film in films:
        film.take()
    films[0].turn.give_back(10)
    assert films[1].turn.held, "computes while the one before is decoded"
    films[1].turn.give_back(10)
    assert not films[2].turn.held
    films[0].turn.decoded()
    assert films[2].turn.held
    assert films[2].woken == 1
    films[2].turn.give_back(0)  # failed: nothing is decoded
    assert films[3].turn.held


def test_decoding_may_end_before_the_turn_does(clock: Clock) -> None:
    scheduler = Scheduler(clock=clock)
    first, second, third = (Film(scheduler, due(at)) for at in range(3))
    assert first.take()
    second.take()
    first.turn.decoded()  # the first chunk of a shot: the generator waits for it, then cleans up
    first.turn.give_back(10)
    third.take()
    second.turn.give_back(10)
    assert third.turn.held


def test_a_film_that_stops_waiting_gets_no_turn(clock: Clock) -> None:
    scheduler = Scheduler(clock=clock)
    film, closed = Film(scheduler, due(0)), Film(scheduler, due(1))
    film.turn.give_back()
    assert film.take()
    assert not closed.take()
    closed.turn.give_back()
    assert scheduler.waiting == 0
    film.make()
    assert not closed.turn.held
    assert film.take()


@pytest.mark.parametrize("policy", ["slack", "first_come"])
@pytest.mark.parametrize("places", [1, 3])
def test_films_that_all_want_more_than_there_is_get_the_same(
    clock: Clock, policy: Any, places: int
) -> None:
    scheduler, count = Scheduler(places=places, policy=policy, clock=clock), 8
    shown = [clock.now_s] * count  # a late frame moves what is due
    films = [Film(scheduler, lambda at=at: shown[at]) for at in range(count)]
    chunks, times = [0] * count, random.Random(5)
    for film in films:
        film.take()
    for _ in range(400):
        clock.now_s += times.uniform(0.1, 0.3)
        begun = [(film.turn.granted_s, at) for at, film in enumerate(films) if film.turn.held]
        at = min(begun)[1]
        chunks[at] += 1
        shown[at] = clock.now_s + 1
        films[at].make()
        films[at].take()
    assert max(chunks) - min(chunks) <= 2


def test_how_long_chunks_take_is_learned_only_while_somebody_waits(clock: Clock) -> None:
    throughput = Throughput()
    scheduler = Scheduler(throughput=throughput, clock=clock)
    films = [Film(scheduler, due(at)) for at in range(3)]
    for _ in range(5):
        films[0].take()
        clock.now_s += 0.25
        films[0].make()
    assert throughput.frames_per_s is None
    assert throughput.films(RATE) == 1
    for film in films:
        film.take()
    for film in itertools.islice(itertools.cycle(films), 66):
        clock.now_s += 0.2
        film.make()
        film.take()
    assert throughput.frames_per_s == pytest.approx(50)
    assert throughput.films(RATE) == 3, "a quarter is kept in reserve"


def test_threads_that_ask_at_the_same_time_all_get_their_turns() -> None:
    scheduler, rounds = Scheduler(places=2), 300
    most, at_once, lock = 0, 0, threading.Lock()

    def run() -> None:
        nonlocal most, at_once
        changed = threading.Condition()

        def wake() -> None:
            with changed:
                changed.notify_all()

        turn = scheduler.turn(lambda: 0.0, frame_rate_hz=RATE)
        for number in range(rounds):
            with changed:
                while not turn.take(0, wake):
                    changed.wait()
            with lock:
                at_once += 1
                most = max(most, at_once)
            with lock:
                at_once -= 1
            turn.give_back(number % 2)
            if number % 2:
                turn.decoded()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 2
    assert scheduler.waiting == 0
