"""Interrupts at arbitrary places; ``test_interrupts.py`` runs them in a process of their own."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shotstream_rt import Session, SessionClosedError
from shotstream_rt.loading.load_model import Model

from ..patience import wait_for

Opener = Callable[..., Session]
NewBundle = Callable[[], Model]


@contextmanager
def alarm(handler: Callable[..., None], after_s: float) -> Iterator[None]:
    """Call ``handler`` in the main thread after a time, again and again while the block runs.

    Again, because Python swallows what a handler raises inside a destructor.
    """
    armed = True

    def while_armed(*_: Any) -> None:
        if armed:
            handler()

    signal.signal(signal.SIGALRM, while_armed)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s, 2.0)
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def no_thread_is_left() -> bool:
    return not any(thread.name.startswith("shotstream-") for thread in threading.enumerate())


@pytest.mark.parametrize("chunks", [False, True])
def test_interrupts_lose_no_frame(open_session: Opener, chunks: bool) -> None:
    session = open_session(at_end="loop", queue_chunks=4)
    session.cut("a")
    got: list[int] = []
    interrupts = 0
    while interrupts < 60 or not got:  # a busy machine may make no frame between 60 of them
        try:
            with alarm(raise_interrupt, 0.0005 + 0.0002 * (interrupts % 17)):
                for item in session.chunks() if chunks else session.stream():
                    got.append(item.index)  # noqa: PERF401 - interrupted
        except KeyboardInterrupt:
            interrupts += 1
    if chunks:
        wanted = [
            81 * shot + at for shot in range(1 + got[-1] // 81) for at in (0, *range(9, 81, 12))
        ]
        assert got == wanted[: len(got)]
    else:
        assert got == list(range(len(got)))


def begin(session: Session) -> None:
    session.cut("a")
    session.cut("b")
    frames = session.stream()
    for _ in range(30):
        next(frames)


def test_close_in_a_signal_handler_that_interrupts_close(new_bundle: NewBundle) -> None:
    for _ in range(20):
        session = Session(new_bundle(), at_end="loop")
        begin(session)
        closed: list[bool] = []  # an event would have a lock that the handler cannot enter again

        def handler(session: Session = session, closed: list[bool] = closed) -> None:
            session.close()
            closed.append(True)

        with alarm(handler, 0.0005):
            session.close()
            wait_for(lambda closed=closed: bool(closed))  # type: ignore[misc]
        wait_for(no_thread_is_left)


@pytest.mark.parametrize("part", ["timeline", "frames", "captions", "stats", "decoder"])
def test_close_in_a_signal_handler_while_a_lock_is_held(new_bundle: NewBundle, part: str) -> None:
    session = Session(new_bundle(), at_end="loop")
    begin(session)
    film: Any = session._film
    owner = film.workers.decoder if part == "decoder" else getattr(film, part)
    previous = signal.signal(signal.SIGALRM, lambda *_: session.close())
    try:
        with owner.lock:
            signal.raise_signal(signal.SIGALRM)
            with pytest.raises(SessionClosedError):
                next(session.stream())
    finally:
        signal.signal(signal.SIGALRM, previous)
    wait_for(no_thread_is_left)
    session.close()
    assert film._model is None


def test_interrupted_close_is_finished_by_the_next(new_bundle: NewBundle) -> None:
    interrupted = 0
    for number in range(30):
        bundle: Any = new_bundle()
        closes: list[float] = []
        bundle.fake_backend.close = lambda closes=closes: closes.append(time.monotonic())
        session = Session(bundle, at_end="loop")
        bundle.close()  # from here on only the session holds it
        del bundle
        begin(session)
        try:
            with alarm(raise_interrupt, 0.0001 + 0.0001 * (number % 10)):
                session.close()
        except KeyboardInterrupt:
            interrupted += 1
        session.close()
        assert len(closes) == 1
        wait_for(no_thread_is_left)
    assert interrupted
