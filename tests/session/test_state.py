"""Where a session is, and what it tells while it runs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from shotstream_rt import ConfigError, Event, Place, Session
from shotstream_rt.film.stats import SessionStats, ShotTimes
from shotstream_rt.loading.load_model import Model

from ..patience import wait_for

Opener = Callable[..., Session]


def test_state_of_a_session_at_rest(open_session: Opener) -> None:
    session = open_session()
    state = session.state
    assert (state.running, state.pending, state.idle, state.making) == (None, (), True, False)
    assert (state.queued_chunks, state.unread_frames, state.failed) == (0, 0, "")
    session.cut("a")
    list(session.stream())
    assert session.state.idle
    assert session.state.running is None


def test_state_tells_what_runs_and_what_waits(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle, queue_chunks=2)
    session.cut("a")
    second = session.cut("b", take=1)
    session.cut("c", global_caption="g.")
    wait_for(lambda: session.state.waits_for_reader)
    state = session.state
    assert state.running == Place(0, 0, 2, 21)
    assert state.caption == "a"
    assert (state.queued_chunks, state.unread_frames, state.making) == (2, 21, False)
    assert [(p.shot, p.take, p.text) for p in state.pending] == [(1, 1, "b"), (2, 0, "c")]
    assert state.pending[0].id == second.id
    assert not state.idle
    next(session.stream())
    wait_for(lambda: session.state.waits_for_reader)
    state = session.state
    assert state.running == Place(0, 0, 3, 33)
    assert (state.queued_chunks, state.unread_frames) == (2, 32)
    json.dumps(state.to_dict())


def test_state_while_a_chunk_is_made(open_session: Opener, bundle: Model) -> None:
    pipeline: Any = bundle.pipeline
    pipeline.gate.clear()
    session = open_session(bundle)
    session.cut("a")
    wait_for(lambda: session.state.running == Place(0, 0, 1, 9))
    assert session.state.making
    wait_for(lambda: session.state.behind_s > 0)
    pipeline.gate.set()


def test_a_chunk_that_waits_until_others_are_decoded_is_being_made(
    open_session: Opener, bundle: Model
) -> None:
    session = open_session(bundle, queue_policy="latest", at_end="extend")
    session.cut("a")
    next(session.stream())
    bundle.fake_codec.decode_gate.clear()  # type: ignore[attr-defined]
    # One is being decoded, one is next, and the third waits to be handed over.
    wait_for(lambda: session._film.timeline.in_flight == 3)
    time.sleep(0.05)
    state = session.state
    assert state.making
    assert state.behind_s != 0


def test_pause_holds_the_film_and_resume_goes_on(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle, queue_chunks=1)
    session.pause()
    session.cut("a")
    time.sleep(0.03)
    assert bundle.pipeline.calls == []  # type: ignore[attr-defined]
    assert session.state.paused
    threading.Timer(0.02, session.resume).start()
    assert len(list(session.stream())) == 81
    assert not session.state.paused


def test_events_tell_a_film_in_order(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    events: list[Event] = []
    stop = session.on_event(events.append)
    first = session.cut("a", chunks=2)
    session.cut("b", chunks=1)
    chunks = [(c.shot, c.take, c.chunk, c.index) for c in session.chunks()]
    began = [e for e in events if e.kind == "shot_began"]
    assert [(e.place, e.caption) for e in began] == [
        (Place(0, 0, 0, 0), "a"), (Place(1, 0, 0, 21), "b"),
    ]  # fmt: skip
    assert began[0].request == first.id
    made = [e.place for e in events if e.kind == "chunk_made"]
    assert made == [Place(*chunk) for chunk in chunks]
    times = [e.time_s for e in events]
    assert times == sorted(times)
    assert all((e.took_s > 0) == (e.kind == "chunk_made") for e in events)
    stop()
    stop()
    count = len(events)
    session.cut("c", chunks=1)
    list(session.stream())
    assert len(events) == count


def test_dropped_chunks_are_told(open_session: Opener) -> None:
    session = open_session(queue_policy="latest")
    events: list[Event] = []
    session.on_event(events.append)
    session.cut("a")
    wait_for(lambda: session.stats["frames"] == 81 and session.state.idle)
    dropped = [e.place.chunk for e in events if e.kind == "chunk_dropped" and e.place]
    assert dropped == list(range(6))
    assert session.state.dropped_chunks == session.stats["dropped"] == 6


def test_listeners_may_direct(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)

    def listen(event: Event) -> None:
        if event.kind == "shot_began" and event.place is not None and event.place.shot < 3:
            session.cut(f"shot {event.place.shot + 1}", chunks=1)

    session.on_event(listen)
    session.cut("shot 0", chunks=1)
    assert [chunk.caption for chunk in session.chunks()] == [f"shot {n}" for n in range(4)]


def test_only_functions_listen(open_session: Opener) -> None:
    with pytest.raises(ConfigError, match="on_event"):
        open_session().on_event("loudly")  # type: ignore[arg-type]


def test_length_of_a_shot(open_session: Opener) -> None:
    session = open_session(at_end="loop")
    session.cut("a", chunks=2)
    assert [(c.shot, c.chunk) for c in islice(session.chunks(), 4)] == [
        (0, 0), (0, 1), (1, 0), (1, 1),
    ]  # fmt: skip
    long = open_session()
    long.cut("a", chunks=9)
    assert [c.chunk for c in long.chunks()] == list(range(9))


def test_stats_say_what_they_dropped() -> None:
    stats = SessionStats()
    for shot in range(300):
        stats.shot_begins(ShotTimes(shot=shot, take=0, prompt="a"))
    for _ in range(1100):
        stats.add("chunk", time.perf_counter_ns())
    told = stats.to_dict()
    assert (told["shots_begun"], told["shots_dropped"], len(told["shots"])) == (300, 44, 256)
    assert told["shots"][0]["shot"] == 44
    assert (told["chunk_ms"]["n"], told["chunk_ms"]["kept"]) == (1100, 1024)


def test_shot_numbers_have_no_end(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle)
    session.cut("a")
    session.cut("b")
    list(session.stream())
    timeline = session._film.timeline
    shift = 2**20 - 2  # as if that many shots had been made before
    with timeline.lock:
        timeline.playlist.next_shot += shift
        selector = session._film.workers.selector
        for memory in [*selector.past, selector._open]:
            assert memory is not None
            memory.shot += shift
    for text in "cde":
        session.cut(text)
    frames = list(session.stream())
    assert {frame.shot for frame in frames} == {2**20, 2**20 + 1, 2**20 + 2}
    begun = [call for call in bundle.pipeline.calls if call[0] == "begin"]  # type: ignore[attr-defined]
    assert all(call[4] <= 2**20 for call in begun), "flags stay in the planner's range"
    assert [call[4] - call[2][0] for call in begun[2:]] == [2, 3, 4]
