"""``close`` from anywhere, dropped sessions, forks, and what is left afterwards: nothing."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt import DeviceError, Event, Session, SessionClosedError, ShotStreamError, Story
from shotstream_rt.film import threads
from shotstream_rt.loading.load_model import Model

from ..patience import PATIENCE_S, wait_for

Opener = Callable[..., Session]
NewBundle = Callable[[], Model]
unix = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks")


def session_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("shotstream-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    wait_for(lambda: not session_threads())


class Watched:
    """A model that tells when it was freed, and whether its parts were."""

    def __init__(self, bundle: Any) -> None:
        self.closed: list[float] = []
        self.bundle = bundle
        bundle.fake_backend.close = lambda: self.closed.append(time.monotonic())
        self.pipeline = weakref.ref(bundle.pipeline)
        self.codec = weakref.ref(bundle.codec)
        self.text = weakref.ref(bundle.text)

    def open(self, **options: Any) -> Session:
        session = Session(self.bundle, **options)
        self.bundle.close()  # from here on only the session holds it
        self.bundle = None
        return session

    @property
    def alive(self) -> list[str]:
        return [n for n in ("pipeline", "codec", "text") if getattr(self, n)() is not None]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def use(session: Session) -> None:
    session.cut("a")
    session.cut("b")
    frames = session.stream()
    for _ in range(30):
        next(frames)


@pytest.mark.usefixtures("no_collector")
def test_close_frees_the_model_whatever_still_names_the_session(new_bundle: NewBundle) -> None:
    watched = Watched(new_bundle())
    session = watched.open()
    session.on_event(lambda _: None)
    use(session)
    pipeline = watched.pipeline()
    assert pipeline is not None
    shot = weakref.ref(pipeline.running)  # has copies of what its chunks overwrote in the caches
    del pipeline
    kept = session.stream(), session.chunks(), session.cut("c"), session.stats
    session.close()
    assert watched.alive == []
    assert shot() is None
    assert len(watched.closed) == 1
    assert session.closed
    assert session.size == (16, 32)
    assert session.shot_frames == 81
    assert kept[3]["frames"] <= session.stats["frames"]
    with pytest.raises(SessionClosedError):
        next(kept[0])


@pytest.mark.usefixtures("no_collector")
def test_close_after_a_failure_frees_the_model(new_bundle: NewBundle) -> None:
    watched = Watched(new_bundle())
    assert watched.bundle is not None
    watched.bundle.pipeline.fail_at = (0, 1)  # type: ignore[attr-defined]
    session = watched.open()
    session.cut("a")
    error: Exception | None = None
    try:
        list(session.stream())
    except ShotStreamError as raised:
        error = raised
    assert error is not None
    session.close()
    error.__traceback__ = None
    assert watched.alive == []


@pytest.mark.usefixtures("no_collector")
def test_a_dropped_session_is_freed_and_warns(new_bundle: NewBundle) -> None:
    for running in (False, True):
        watched = Watched(new_bundle())
        session = watched.open(at_end="loop")
        if running:
            use(session)
        gone = weakref.ref(session)
        with pytest.warns(ResourceWarning, match="without close"):
            del session
            assert gone() is None, "nothing but its user holds a session"
            wait_for(lambda watched=watched: bool(watched.closed))  # type: ignore[misc]
        wait_for(lambda watched=watched: not watched.alive)  # type: ignore[misc]


def test_dropping_waits_for_no_thread_that_starts(open_session: Opener) -> None:
    """Whoever starts a thread waits for it, and the collector may run on that very thread."""
    session = open_session()
    with pytest.warns(ResourceWarning), threads._starting:  # as while another thread starts
        dropping = threading.Thread(target=session._film.abandon)
        dropping.start()
        dropping.join(PATIENCE_S)
        assert not dropping.is_alive()
    wait_for(lambda: session.closed)


@pytest.mark.usefixtures("no_collector")
def test_a_reader_keeps_its_session(new_bundle: NewBundle) -> None:
    watched = Watched(new_bundle())
    frames = watched.open().story(Story(shots=["a"]))
    assert len(list(frames)) == 81
    with pytest.warns(ResourceWarning):
        del frames
        wait_for(lambda: bool(watched.closed))


def test_a_closed_session_does_not_warn(new_bundle: NewBundle) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = Watched(new_bundle()).open()
        session.close()
        del session
        gc.collect()


def test_thirty_sessions_leave_nothing(new_bundle: NewBundle) -> None:
    for number in range(30):
        watched = Watched(new_bundle())
        session = watched.open()
        session.cut("a", chunks=1)
        next(session.stream())
        if number % 2:
            session.close()
        else:
            with pytest.warns(ResourceWarning):
                del session
                wait_for(lambda w=watched: bool(w.closed))  # type: ignore[misc]
        wait_for(lambda w=watched: not w.alive)  # type: ignore[misc]


def test_close_stops_between_denoising_steps(open_session: Opener, bundle: Model) -> None:
    bundle.pipeline.gate.clear()  # type: ignore[attr-defined]
    session = open_session(bundle)
    session.cut("a")
    wait_for(lambda: session.state.making)
    session.close()  # the fake chunk would take for ever, and asks whether it is wanted
    assert session_threads() == []


def test_close_in_a_listener_and_in_a_logging_handler(new_bundle: NewBundle) -> None:
    for kind in ("listener", "failure", "handler"):
        watched = Watched(new_bundle())
        assert watched.bundle is not None
        if kind != "listener":
            watched.bundle.pipeline.fail_at = (0, 1)  # type: ignore[attr-defined]
        session = watched.open()
        errors: list[BaseException] = []

        def close(session: Session = session, errors: list[BaseException] = errors) -> None:
            try:
                session.close()
            except BaseException as error:
                errors.append(error)

        def listen(event: Event, close: Callable[[], None] = close, kind: str = kind) -> None:
            if event.kind == ("chunk_made" if kind == "listener" else "failed"):
                close()

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord, close: Callable[[], None] = close) -> None:
                close()

        handler = Handler(level=logging.ERROR)
        logger = logging.getLogger("shotstream_rt.session")
        if kind == "handler":
            logger.addHandler(handler)
        else:
            session.on_event(listen)
        session.cut("a")
        with pytest.raises(ShotStreamError):
            while True:
                next(session.stream(follow=True))
        wait_for(lambda w=watched: bool(w.closed))  # type: ignore[misc]
        logger.removeHandler(handler)
        assert errors == []


def test_close_from_many_threads(new_bundle: NewBundle) -> None:
    watched = Watched(new_bundle())
    session = watched.open(at_end="loop")
    use(session)
    threads = [threading.Thread(target=session.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(watched.closed) == 1
    assert session_threads() == []


def test_close_while_a_caption_is_encoded(open_session: Opener, bundle: Model) -> None:
    gate, text = threading.Event(), bundle.text
    real: Any = text.encode
    text.encode = lambda prompts: (gate.wait(PATIENCE_S), real(prompts))[1]  # type: ignore[method-assign]
    session = open_session(bundle)
    session.cut("a")
    closing = threading.Thread(target=session.close)
    closing.start()
    wait_for(lambda: session.closed)
    gate.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()


@unix
def test_a_forked_child_is_told_to_spawn(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a")
    next(session.stream())
    calls: list[Callable[[], Any]] = [
        lambda: session.cut("b"), lambda: next(session.stream()), lambda: next(session.chunks()),
        lambda: session.prompt("b"), lambda: session.snapshot(), lambda: session.restore(b""),
        lambda: session.check("b"), lambda: session.state, lambda: session.retake(),
        lambda: session.clear(), lambda: session.pause(), lambda: session.on_event(print),
    ]  # fmt: skip
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads is the point
        child = os.fork()
    if child == 0:
        told = 0
        try:
            for call in calls:
                try:
                    call()
                except ShotStreamError as error:
                    told += "spawn" in str(error)
            session.close()
            os.write(write, f"{told} {session.closed}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() == f"{len(calls)} True"
    os.close(read)
    os.close(write)
    assert len(list(session.stream())) == 80, "the parent's session goes on"


@pytest.mark.parametrize(
    "tail",
    [
        "threading.Thread(target=lambda: list(session.stream(follow=True))).start()",
        "threading.Thread(target=ignoring(lambda: list(session.stream(follow=True))), "
        "daemon=True).start()",
        "session.cut('b', now=True)",
        "sys.exit(0)",
    ],
)
def test_interpreter_exits_whatever_is_left_open(tail: str) -> None:
    program = f"""
import sys, threading
from conftest import fake_bundle
from shotstream_rt import Session

def ignoring(call):
    def run():
        try:
            call()
        except Exception:
            pass
    return run

session = Session(fake_bundle())
session.cut("a")
next(session.stream())
{tail}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=Path(__file__).parent, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_close_decides_every_request(open_session: Opener, bundle: Model) -> None:
    pipeline: Any = bundle.pipeline
    session = open_session(bundle)
    pipeline.gate.clear()
    begun = session.cut("a")
    wait_for(lambda: session._film.timeline.denoising)  # so that no other shot can begin any more
    left = [session.cut("b"), session.prompt("c"), session.cut("d", now=True), session.retake()]
    session.close()
    assert begun.state == "applied"
    assert {receipt.wait(PATIENCE_S) for receipt in left} <= {"cancelled", "superseded", "late"}
    for ask in (lambda: session.cut("e"), lambda: session.prompt("e"), session.retake):
        with pytest.raises(SessionClosedError):
            ask()


def test_restore_decides_a_shot_that_waits_for_its_caption(
    open_session: Opener, bundle: Model
) -> None:
    text: Any = bundle.text
    gate, real = threading.Event(), text.encode
    session = open_session(bundle)
    empty = session.snapshot()
    text.encode = lambda prompts: (gate.wait(PATIENCE_S), real(prompts))[1]
    waits = session.cut("a")
    wait_for(lambda: session.state.making)
    session.restore(empty)
    assert waits.wait(PATIENCE_S) == "cancelled"
    gate.set()


@pytest.mark.parametrize(
    "which", ["shotstream-text", "shotstream-decode", "shotstream-generate", "shotstream-halves"]
)
def test_a_thread_that_does_not_start_leaves_nothing(
    which: str, new_bundle: NewBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = threading.active_count(), threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == which:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    bundle = new_bundle()
    with pytest.raises(DeviceError, match=rf"starting {which}: .* no more memory or threads"):
        Session(bundle, threads=2)
    assert threading.active_count() == before
    bundle.close()
    assert bundle.closed
