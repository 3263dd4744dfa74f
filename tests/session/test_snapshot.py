"""A restored session goes on as the old one would have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from shotstream_rt import Session
from shotstream_rt.film.snapshot import unpack

from ..patience import PATIENCE_S, wait_for
from .conftest import FakePipeline
from .films import film, film_with_a_past

Opener = Callable[..., Session]


@pytest.mark.parametrize("chunks_read", [0, 1, 3, 6, 7, 8, 13, 14, 20, 21, 24])
@pytest.mark.parametrize("queue_chunks", [1, 9])
def test_continuation_is_the_same(
    open_session: Opener, chunks_read: int, queue_chunks: int
) -> None:
    whole = open_session(seed=4)
    session = open_session(seed=4, queue_chunks=queue_chunks)
    for text in ("a", "b", "c", "d"):
        whole.cut(text)
        session.cut(text)
    expected = film(whole)
    for _ in islice(session.chunks(), chunks_read):
        pass
    data = session.snapshot()
    restored = open_session(seed=99)
    restored.cut("what is dropped by restore")
    restored.restore(data)
    assert film(restored) == expected[chunks_read:]


@pytest.mark.parametrize("frames_read", [1, 5, 9, 14, 81, 90])
def test_continuation_within_a_chunk_is_the_same(open_session: Opener, frames_read: int) -> None:
    whole, session, restored = (open_session(seed=4) for _ in range(3))
    for text in ("a", "b"):
        whole.cut(text)
        session.cut(text)
    expected = [frame.pixels.tobytes() for frame in whole.stream()]
    for _ in islice(session.stream(), frames_read):
        pass
    restored.restore(session.snapshot(within_chunk=True))
    going_on = list(restored.stream())
    assert [frame.pixels.tobytes() for frame in going_on] == expected[frames_read:]
    assert going_on[0].index == frames_read


def test_snapshot_of_a_finished_film_remembers_its_context(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")
    session.cut("b")
    list(session.stream())
    data = session.snapshot()
    session.cut("c")
    restored = open_session()
    restored.restore(data)
    restored.cut("c")
    assert film(restored) == film(session)


def test_prompt_changes_are_part_of_the_snapshot(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a")
    session.cut("b")
    chunks = session.chunks()
    next(chunks)
    receipt = session.prompt("another wording")
    read = 1 + sum(1 for _ in islice(chunks, 3))
    wait_for(lambda: receipt.state == "applied")
    data = session.snapshot()
    rest = film(session)
    assert len(rest) == 14 - read
    restored = open_session()
    restored.restore(data)
    assert film(restored) == rest


@pytest.mark.parametrize("how", ["snapshot", "branch"])
@pytest.mark.parametrize("read", [1, 3])
def test_a_prompt_that_still_waits_is_kept(
    open_session: Opener, bundle: Any, read: int, how: str
) -> None:
    gate, encode = threading.Event(), bundle.text.encode

    def slowly(texts: Any) -> Any:
        assert texts[0] != "b" or gate.wait(PATIENCE_S)
        return encode(texts)

    bundle.text.encode = slowly
    session = open_session(bundle, queue_chunks=1)
    session.cut("a")
    for _ in islice(session.chunks(), read):
        pass
    wait_for(lambda: session.state.waits_for_reader)
    receipt = session.prompt("b")
    data = session.snapshot()
    assert receipt.state == "waiting"
    other = None
    if how == "branch":
        bundle.pipeline = FakePipeline(bundle.config)
        other = session.branch()
    gate.set()
    wait_for(lambda: session._film.captions.ready("b"))
    rest = film(session)
    assert receipt.state == "applied"
    if other is None:
        other = open_session(seed=99)
        other.restore(data)
    with other:
        assert film(other) == rest
    assert len(rest) == 7 - read


def test_snapshot_of_a_restored_session_is_as_good(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")
    for _ in islice(session.chunks(), 3):
        pass
    data = session.snapshot()
    expected = film(session)
    second = open_session()
    second.restore(data)
    again = second.snapshot()
    third = open_session()
    third.restore(again)
    assert film(third) == expected


def test_cut_short_shot_is_made_again_as_short(open_session: Opener) -> None:
    session = open_session(queue_chunks=2)
    session.cut("a")
    chunks = session.chunks()
    next(chunks)
    session.cut("b", now=True)
    data = session.snapshot()
    expected = film(session)
    assert expected[-1][2] == 6
    restored = open_session()
    restored.restore(data)
    made = film(restored)
    assert [c[1:3] for c in made][-7:] == [(1, n) for n in range(7)]


def test_blank_snapshot_starts_a_new_film(open_session: Opener) -> None:
    session = open_session()
    blank = session.snapshot()
    session.cut("a")
    first = film(session)
    session.cut("b")
    list(session.stream())
    session.restore(blank)
    session.cut("a")
    assert film(session) == first


def test_snapshot_is_small_and_holds_no_pickle(open_session: Opener) -> None:
    session = open_session()
    for number in range(8):
        session.cut(f"text {number}")
    list(session.stream())
    data = session.snapshot()
    assert len(data) < 100_000
    state = unpack(data, session._snapshot_model)
    assert [memory.shot for memory in state.past] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_snapshots_may_come_in_any_buffer(open_session: Opener, kind: Callable[..., Any]) -> None:
    session = film_with_a_past(open_session)
    data, restored = session.snapshot(), open_session()
    restored.restore(kind(data))
    assert film(restored) == film(session)


@pytest.mark.parametrize("policy", ["latest", "drop_oldest"])
def test_snapshot_of_a_dropping_session_is_of_what_comes_next(
    open_session: Opener, policy: str
) -> None:
    session = open_session(queue_policy=policy, queue_chunks=2, at_end="loop")
    session.cut("a")
    begun = next(session.stream())
    wait_for(lambda: session.state.dropped_chunks >= 100)
    session.pause()
    wait_for(lambda: not session.state.making)
    session._film.workers.decoder.wait_idle()  # the last chunk made may still drop another
    data = session.snapshot()
    frames = session.stream()
    while ((frame := next(frames)).shot, frame.chunk) == (begun.shot, begun.chunk):
        pass  # the rest of the chunk that was begun before
    restored = open_session(at_end="loop")
    restored.restore(data)
    first = next(restored.stream())
    assert (first.index, first.shot, first.chunk) == (frame.index, frame.shot, frame.chunk)
    assert len(unpack(data, session._snapshot_model).requests) <= 2


def test_lengths_and_captions_survive_a_snapshot(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a", chunks=2)
    session.cut("b", global_caption="g.", chunks=3)
    next(session.chunks())
    data, expected = session.snapshot(), film(session)
    restored = open_session()
    restored.restore(data)
    chunks = list(restored.chunks())
    assert [(c.index, c.shot, c.chunk, c.pixels.tobytes()) for c in chunks] == expected
    assert [c.caption for c in chunks] == ["a"] + ["g.shot1:b"] * 3
