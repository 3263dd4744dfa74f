"""Going on where the reader is, going back, branching, and what is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

from shotstream_rt import ConfigError, Event, ManifestError, Model, Place, Session
from shotstream_rt.types import Frame, MemoryFrame

from ..patience import PATIENCE_S, wait_for

Opener = Callable[..., Session]


def wait_until_full(session: Session) -> None:
    wait_for(lambda: session.state.waits_for_reader)


def read(session: Session, count: int) -> list[Frame]:
    frames: Iterator[Frame] = session.stream(timeout_s=PATIENCE_S)
    return list(islice(frames, count))


@pytest.mark.parametrize("seen", [5, 9, 15, 33])
def test_a_flushed_cut_begins_at_the_next_frame(open_session: Opener, seen: int) -> None:
    session = open_session(queue_chunks=2)
    session.cut("a")
    read(session, seen)
    wait_until_full(session)
    receipt = session.cut("b", flush=True)
    assert [(f.index, f.shot, f.chunk) for f in read(session, 1)] == [(seen, 1, 0)]
    assert receipt.state == "applied"
    assert receipt.place == Place(1, 0, 0, seen)


@pytest.mark.parametrize("seen", [5, 9, 15, 33])
def test_a_flushed_prompt_shows_in_the_next_frame(open_session: Opener, seen: int) -> None:
    session = open_session(queue_chunks=2)
    events: list[Event] = []
    session.on_event(events.append)
    session.cut("a")
    before = read(session, seen)
    wait_until_full(session)
    receipt = session.prompt("b", flush=True)
    [frame] = read(session, 1)
    chunk = 0 if seen < 9 else 1 + (seen - 9) // 12
    assert (frame.index, frame.shot, frame.chunk, frame.caption) == (seen, 0, chunk, "b")
    assert {f.caption for f in before} == {"a"}
    assert receipt.place == Place(0, 0, chunk, seen)
    assert [e.place for e in events if e.request == receipt.id] == [receipt.place]
    assert len(read(session, 100)) == 81 - seen - 1, "the shot keeps its length"


def test_a_flushed_retake_begins_at_the_next_frame(open_session: Opener) -> None:
    session = open_session(queue_chunks=2)
    session.cut("a")
    read(session, 15)
    wait_until_full(session)
    session.retake(flush=True)
    assert [(f.index, f.shot, f.take) for f in read(session, 1)] == [(15, 0, 1)]


def test_what_was_never_shown_is_no_context(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle, queue_chunks=2)
    session.cut("a")
    session.cut("never read")
    read(session, 15)
    wait_until_full(session)
    session.cut("b", flush=True)
    read(session, 1)
    assert max(session.directions()["directions"][-1]["context"]) == 14
    assert session.directions()["undone"][0]["by"] == "cut"


@pytest.mark.parametrize(
    ("asked", "index"),
    [({}, 21), ({"chunks": 1}, 21), ({"chunks": 3}, 0), ({"frame": 4}, 4), ({"shot": 0}, 0)],
)
def test_undo_goes_back(open_session: Opener, asked: dict[str, int], index: int) -> None:
    session = open_session()
    session.cut("a")
    first = read(session, 30)
    receipt = session.undo(**asked)
    assert receipt.state == "applied"
    assert receipt.place is not None
    assert receipt.place.index == index
    again = read(session, 30 - index)
    assert [f.index for f in again] == list(range(index, 30))
    for one, other in zip(first[index:], again, strict=True):
        assert (one.pixels == other.pixels).all(), "the same is made again"


def test_undo_takes_back_what_was_asked_for(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a", chunks=2)
    session.cut("b", chunks=2)
    frames = read(session, 42)
    session.undo(shot=0)
    assert [(f.shot, f.pixels.tobytes()) for f in read(session, 50)] == [
        (0, f.pixels.tobytes()) for f in frames[:21]
    ]
    told = session.directions()
    assert [d["text"] for d in told["directions"]] == ["a"]
    assert [d["text"] for d in told["undone"][0]["directions"]] == ["b"]


@pytest.mark.parametrize(
    "asked",
    [{"chunks": 0}, {"chunks": 2}, {"frame": 10}, {"shot": 1}, {"frame": 1, "shot": 0}],
)
def test_undo_of_what_was_not_read_is_refused(open_session: Opener, asked: dict[str, int]) -> None:
    session = open_session()
    with pytest.raises(ConfigError, match="undo"):
        session.undo(chunks=1)
    session.cut("a")
    read(session, 9)
    with pytest.raises(ConfigError, match=r"chunks|undo"):
        session.undo(**asked)
    assert [f.index for f in read(session, 1)] == [9], "nothing changed"


def test_an_older_shot_is_taken_again(open_session: Opener) -> None:
    session = open_session()
    for text in "abc":
        session.cut(text, chunks=1)
    read(session, 27)
    session.retake(0, keep_following=True)
    assert [(f.index, f.shot, f.take, f.caption) for f in read(session, 40)[::9]] == [
        (0, 0, 1, "a"), (9, 1, 0, "b"), (18, 2, 0, "c"),
    ]  # fmt: skip


def test_a_branch_goes_its_own_way(open_session: Opener, bundle: Any, monkeypatch: Any) -> None:
    # Both make chunks at the same time, so neither may have the other's shot in its pipeline.
    monkeypatch.setattr(bundle, "new_pipeline", lambda: type(bundle.pipeline)(bundle.config))
    session = open_session(bundle)
    session.cut("a")
    read(session, 30)
    with session.branch() as other:
        other.prompt("b", flush=True)
        theirs, ours = read(other, 60), read(session, 60)
    assert [f.index for f in theirs] == [f.index for f in ours] == list(range(30, 81))
    assert {f.caption for f in theirs} == {"b"}
    assert {f.caption for f in ours} == {"a"}


def test_memory_shows_what_the_next_shot_sees(open_session: Opener) -> None:
    session = open_session()
    assert session.memory == ()
    session.cut("a")
    frames = list(session.stream())
    told = session.memory
    assert [m.index for m in told] == [0, 16, 32, 48, 64, 80]
    for one in told:
        assert (one.shot, one.pinned) == (0, False)
        assert np.abs(one.picture.astype(int) - frames[one.index].pixels).max() <= 1
    session.cut("b", chunks=1)
    list(session.stream())
    assert session.directions()["directions"][-1]["context"] == [m.index for m in told]


def test_a_pinned_frame_stays(open_session: Opener) -> None:
    session = open_session()
    session.cut("a", chunks=1)
    list(session.stream())
    session.pin(3)
    for text in "bcdefghi":
        session.cut(text, chunks=1)
    list(session.stream())
    assert [(m.index, m.shot) for m in session.memory if m.pinned] == [(3, 0)]
    contexts = [d["context"] for d in session.directions()["directions"][1:]]
    assert all(3 in context and len(context) == 6 for context in contexts)
    session.unpin(3)
    assert 3 not in [m.index for m in session.memory]
    with pytest.raises(ConfigError, match="unpin"):
        session.unpin(3)
    with pytest.raises(ConfigError, match="pin"):
        session.pin(10_000)


def test_a_forgotten_shot_is_not_seen(open_session: Opener) -> None:
    session = open_session()
    for text in "ab":
        session.cut(text, chunks=1)
    list(session.stream())
    session.forget(0)
    assert {m.shot for m in session.memory} == {1}
    with pytest.raises(ConfigError, match="forget"):
        session.forget(7)


def test_a_function_chooses_the_context(open_session: Opener) -> None:
    asked: list[tuple[int, str]] = []

    def choose(past: tuple[MemoryFrame, ...], budget: int, caption: str) -> list[MemoryFrame]:
        asked.append((budget, caption))
        return [past[0]]

    session = open_session(choose=choose)
    session.cut("a", chunks=1)
    session.cut("b", chunks=1)
    list(session.stream())
    assert asked == [(6, "b")]
    assert session.directions()["directions"][1]["context"] == [0] * 6
    with pytest.raises(ConfigError, match="choose"):
        open_session(choose="best")


def directed(session: Session) -> dict[str, Any]:
    session.cut("a")
    read(session, 30)
    session.prompt("b", flush=True)
    read(session, 20)
    made: dict[str, Any] = json.loads(json.dumps(session.directions()))
    return made


def test_directions_are_plain_and_make_the_film_again(open_session: Opener) -> None:
    session = open_session(seed=9)
    made = directed(session)
    assert [(d["kind"], d["chunk"], d["frame"]) for d in made["directions"]] == [
        ("cut", 0, 0), ("prompt", 2, 30),
    ]  # fmt: skip
    again = open_session()
    frames = list(again.replay(made))
    assert [f.caption for f in frames] == ["a"] * 30 + ["b"] * 20


def test_a_film_of_which_nothing_was_read_is_replayed(open_session: Opener) -> None:
    session = open_session()
    assert list(session.replay(session.directions())) == []
    session.cut("a")
    assert list(session.replay(session.directions())) == []


def test_a_paused_film_that_went_back_is_saved(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a")
    frames = session.stream()
    for _ in range(30):
        next(frames)
    for _ in range(20):
        session.pause()
        with session._film.timeline.lock:  # so that the snapshot waits for what undo began
            session.undo()
            data = session.snapshot()
        session.resume()
        session.restore(data)
        for _ in range(12):
            next(frames)


def test_damaged_directions_are_refused(open_session: Opener) -> None:
    made = directed(open_session())
    text, target = json.dumps(made), open_session()
    for place in range(0, len(text), 13):
        bad = bytearray(text, "ascii")
        bad[place] ^= 1
        try:
            data = json.loads(bad)
        except ValueError:
            continue
        if data != made:
            with pytest.raises((ConfigError, ManifestError), match=r"film\.json"):
                target.replay(data)
    for key, error in (("version", "version 3"), ("profile", "profile"), ("fingerprint", "model")):
        changed = {**made, key: 3}
        with pytest.raises((ManifestError, ConfigError), match=r"film\.json"):
            target.replay(changed)
        assert error
    for nothing in (None, 5, [], {}):
        with pytest.raises(ConfigError, match=r"film\.json"):
            target.replay(nothing)  # type: ignore[arg-type]
