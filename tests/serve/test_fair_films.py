"""Films of one device under the scheduler: they get the same, and are what they are alone."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from shotstream_rt.errors import ConfigError, FrameTimeoutError, SessionClosedError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.scheduler import POLICIES, Policy, Scheduler
from shotstream_rt.session import Session

from ..patience import PATIENCE_S
from ..session.conftest import FakePipeline, fake_bundle

FILMS = 8
CAT = "Wide shot: a red cat walks right on a beach."


class Watched:
    """A film whose reader is always ready, so that it wants more than there is."""

    def __init__(self, model: Model, scheduler: Scheduler, count: Callable[[], bool]) -> None:
        self.due_s, self.made = time.monotonic(), [0]
        self.digest, self._count = hashlib.sha256(), count
        turn = scheduler.turn(lambda: self.due_s, frame_rate_hz=model.frame_rate_hz)
        self.session = model.session(seed=5, threads=1, queue_chunks=1, at_end="extend", turn=turn)
        self.thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        try:
            for chunk in self.session.chunks(follow=True):
                self.due_s = time.monotonic() + len(chunk.pixels) / self.session.frame_rate_hz
                if not self._count():
                    return
                self.digest.update(chunk.pixels.tobytes())
                self.made.append(self.made[-1] + len(chunk.pixels))
        except SessionClosedError:
            pass


def play(model: Model, policy: Policy, films: int, chunks: int) -> list[Watched]:
    """Let films make a number of chunks, over all of them."""
    lock, left = threading.Lock(), chunks

    def count() -> bool:
        nonlocal left
        with lock:
            left -= 1
            return left >= 0

    scheduler = Scheduler(policy=policy)
    watched = [Watched(model, scheduler, count) for _ in range(films)]
    for film in watched:
        film.session.cut(CAT)
        film.thread.start()
    for film in watched:
        film.thread.join(5 * PATIENCE_S)
        assert not film.thread.is_alive()
    for film in watched:
        film.session.close()
    assert scheduler.waiting == 0
    return watched


class SlowPipeline(FakePipeline):
    """Takes longer than a reader needs to come back."""

    def run_chunk(self, *given: Any) -> Any:
        time.sleep(0.01)
        return super().run_chunk(*given)


@pytest.mark.parametrize("policy", POLICIES)
def test_films_that_want_more_than_there_is_get_the_same(policy: Policy) -> None:
    model = fake_bundle()
    model.new_pipeline = lambda: SlowPipeline(model.config)  # type: ignore[method-assign,return-value]
    with model:
        made = [film.made[-1] for film in play(model, policy, FILMS, 240)]
    assert max(made) <= 1.1 * min(made)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_films_of_nano_get_the_same_and_are_what_they_are_alone(policy: Policy) -> None:
    if not (NANO_FOLDER / "student.json").is_file():
        pytest.skip("this checkout has no nano weights")
    with Model.open("nano") as model:
        watched = play(model, policy, FILMS, 11 * FILMS)
        made = [film.made[-1] for film in watched]
        assert max(made) <= 1.1 * min(made)
        (alone,) = play(model, policy, 1, max(len(film.made) for film in watched) - 1)
        digests: dict[int, Any] = {len(alone.made): alone.digest.hexdigest()}
        for film in watched:
            same = digests.setdefault(len(film.made), film.digest.hexdigest())
            assert film.digest.hexdigest() == same


def do_something(session: Session, chance: random.Random) -> None:
    """Ask for something, read a little, or begin anew from a snapshot."""
    match chance.randrange(9):
        case 0 | 1:
            session.cut(chance.choice("abcdef"), flush=chance.random() < 0.5)
        case 2:
            session.prompt(chance.choice("abcdef"), flush=True)
        case 3:
            session.retake(flush=chance.random() < 0.5)
        case 4:
            session.undo(chunks=1)
        case 5:
            session.pause()
        case 6:
            session.resume()
        case 7:
            session.restore(session.snapshot(within_chunk=True))
        case 8:
            for _ in itertools.islice(session.stream(timeout_s=0.05), chance.randrange(40)):
                pass


def test_whatever_films_do_no_turn_is_lost() -> None:
    model, scheduler = fake_bundle(), Scheduler(places=2)
    model.new_pipeline = lambda: FakePipeline(model.config)  # type: ignore[method-assign,return-value]

    def live(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(6):
            turn = scheduler.turn(time.monotonic, frame_rate_hz=16)
            with model.session(turn=turn, queue_chunks=1, at_end="extend") as session:
                session.cut("a")
                for _ in range(chance.randrange(60)):
                    with suppress(ConfigError, FrameTimeoutError):
                        do_something(session, chance)

    with model, ThreadPoolExecutor(FILMS) as films:
        for result in [films.submit(live, seed) for seed in range(FILMS)]:
            result.result(5 * PATIENCE_S)
    assert scheduler.waiting == 0
    assert (scheduler._computing, scheduler._decoding) == (0, 0)
