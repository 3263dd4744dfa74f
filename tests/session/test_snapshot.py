"""A restored session goes on as the old one would have."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from shotstream_rt import ConfigError, ManifestError, Session
from shotstream_rt.config import CacheConfig, StreamConfig
from shotstream_rt.snapshot import fingerprint, unpack

Opener = Callable[..., Session]


def film(session: Session) -> list[tuple[int, int, int, bytes]]:
    return [(c.index, c.shot, c.chunk, c.pixels.tobytes()) for c in session.chunks()]


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
    session.prompt("another wording")
    read = 1 + sum(1 for _ in islice(chunks, 3))
    data = session.snapshot()
    rest = film(session)
    assert len(rest) == 14 - read
    restored = open_session()
    restored.restore(data)
    assert film(restored) == rest


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
    state = unpack(data, session._model.config)
    assert [memory.shot for memory in state.past] == [2, 3, 4, 5, 6, 7]


def damaged(data: bytes) -> dict[str, Any]:
    return {
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "other": b"\x00" * 100,
        "text": b"hello" * 100,
        "not bytes": "hello",
        "header": data.replace(b"shotstream-snapshot", b"something-else-here"),
    }


@pytest.mark.parametrize("kind", ["empty", "truncated", "other", "text", "not bytes", "header"])
def test_damaged_snapshot_is_a_config_error(open_session: Opener, kind: str) -> None:
    session = open_session()
    with pytest.raises(ConfigError, match="snapshot"):
        session.restore(damaged(session.snapshot())[kind])


def test_snapshot_of_another_model_is_refused(open_session: Opener) -> None:
    session = open_session()
    other = StreamConfig(cache=CacheConfig(context_frames=5))
    assert fingerprint(other) != fingerprint(session._model.config)
    with pytest.raises(ManifestError, match="another model configuration"):
        unpack(session.snapshot(), other)
