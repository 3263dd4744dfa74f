"""A restored session goes on as the old one would have."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from shotstream_rt import ConfigError, ManifestError, Session
from shotstream_rt.config import CacheConfig, StreamConfig
from shotstream_rt.film.snapshot import MARK, SCHEMA_VERSION, pack, unpack

from ..patience import PATIENCE_S, wait_for
from .conftest import FakePipeline

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


def damaged(data: bytes) -> dict[str, Any]:
    return {
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "other": b"\x00" * 100,
        "text": b"hello" * 100,
        "not bytes": "hello",
        "header": data.replace(b"SHOTSTREAM-SNAP", b"something else."),
    }


@pytest.mark.parametrize("kind", ["empty", "truncated", "other", "text", "not bytes", "header"])
def test_damaged_snapshot_is_a_config_error(open_session: Opener, kind: str) -> None:
    session = open_session()
    with pytest.raises(ConfigError, match="snapshot"):
        session.restore(damaged(session.snapshot())[kind])


def test_snapshot_of_another_model_is_refused(open_session: Opener) -> None:
    session = open_session()
    here = session._snapshot_model
    other = dataclasses.replace(here, config=StreamConfig(cache=CacheConfig(context_frames=5)))
    assert other.fingerprint != here.fingerprint
    with pytest.raises(ManifestError, match="another model configuration"):
        unpack(session.snapshot(), other)


def sealed(payload: bytes) -> bytes:
    """A payload with a right checksum, as somebody makes it who wants to do harm."""
    version = SCHEMA_VERSION.to_bytes(4, "little")
    return MARK + version + hashlib.sha256(MARK + version + payload).digest() + payload


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    payload = data[len(MARK) + 4 + 32 :]
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])["__metadata__"]["snapshot"]
    return json.loads(header), load(payload)


def film_with_a_past(open_session: Opener) -> Session:
    session = open_session(queue_chunks=1)
    for text in ("a", "b", "c"):
        session.cut(text)
    for _ in islice(session.chunks(), 10):
        pass
    return session


def test_every_flipped_bit_is_refused(open_session: Opener) -> None:
    session = film_with_a_past(open_session)
    data, target = session.snapshot(), open_session()
    target.cut("kept")
    step = max(1, len(data) // 700)
    for place in range(0, len(data), step):
        bad = bytearray(data)
        bad[place] ^= 1 << place % 8
        with pytest.raises(ConfigError, match="snapshot"):
            target.restore(bad)
    for cut in (*range(0, len(data), 211), len(data) - 1):
        with pytest.raises(ConfigError, match="snapshot"):
            target.restore(data[:cut])
    with pytest.raises(ConfigError, match="snapshot"):
        target.restore(data + b"\0")
    assert len(list(target.stream())) == 81, "nothing changed"


def changed(header: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    made = json.loads(json.dumps(header))
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return dict(made)


HUGE = 10**30
BAD_VALUES: list[tuple[list[Any], list[Any]]] = [
    (["next_shot"], [-1, 0, 2**31, HUGE, "1", None, 1.5, True, []]),
    (["next_index"], [-1, HUGE, "0", None, 0.5, float("nan")]),
    (["fingerprint"], ["", None, 5]),
    (["profile"], ["other", None, 3]),
    (["past"], [None, 5, {}, [1], "x", [{}]]),
    (["past", 0, "shot"], [-1, 5, HUGE, "0", None]),
    (["past", 0, "caption"], [None, "", 7, []]),
    (["past", 0, "frame_count"], [0, -1, 82, HUGE, "81", None, 40]),
    (["requests"], [None, 5, [1], ["x"], [{}]]),
    (["requests", 0, "text"], [None, "", 5, [], {}]),
    (["requests", 0, "prefix"], [None, 5]),
    (["requests", 0, "global_caption"], [5, []]),
    (["requests", 0, "seed"], [-1, 2**63, HUGE, "0", None, 0.5, True]),
    (["requests", 0, "take"], [-1, 2**31, "0", None]),
    (["requests", 0, "now"], [None, 0, "no"]),
    (["requests", 0, "retake"], [None, 1, "yes"]),
    (["requests", 0, "prompts"], [None, 5, "x", [5], [[0]], [[0, ""]], [[-1, "x"]], [[0, 5]]]),
    (["requests", 0, "looped"], [None, 1, "yes"]),
    (["requests", 0, "given"], [-1, HUGE, "0", None, 1]),
    (["requests", 0, "frames"], [0, -1, HUGE, "7", 0.5]),
    (["requests", 0, "context"], [5, "x", [-1], [None], [0.5]]),
    (["history"], [None, 5, [1], ["x"], [{}], [[0]]]),
    (["history", 0, 0], [-1, HUGE, "0", None]),
    (["history", 0, 1, "given"], [0, -1, HUGE, "81", 80]),
    (["history", 0, 1, "frames"], [None, 0, 80]),
    (["requests", 0, "chunks"], [0, -1, HUGE, "7"]),
    (["requests", 0, "unknown"], [1]),
]


@pytest.mark.parametrize(("path", "values"), BAD_VALUES, ids=lambda x: ".".join(map(str, x))[:40])
def test_hostile_values_are_refused_before_anything_changes(
    open_session: Opener, path: list[Any], values: list[Any]
) -> None:
    header, tensors = parts(film_with_a_past(open_session).snapshot())
    target = open_session()
    for value in values:
        bad = save(tensors, {"snapshot": json.dumps(changed(header, path, value))})
        with pytest.raises((ConfigError, ManifestError), match="snapshot"):
            target.restore(sealed(bad))
    target.restore(sealed(save(tensors, {"snapshot": json.dumps(header)})))
    assert [chunk.shot for chunk in islice(target.chunks(), 1)] == [1]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.fill_(float("nan")),
        lambda x: x.fill_(float("inf")),
        lambda x: x[:1].clone(),
        lambda x: x.int(),
        lambda x: x[None].clone(),
        lambda _: None,
    ],
)
def test_hostile_latents_are_refused(
    open_session: Opener, change: Callable[[torch.Tensor], torch.Tensor | None]
) -> None:
    header, tensors = parts(film_with_a_past(open_session).snapshot())
    name = sorted(set(tensors) - {"version"})[0]
    made = change(tensors.pop(name))
    if made is not None:
        tensors[name] = made
    with pytest.raises(ConfigError, match="snapshot"):
        open_session().restore(sealed(save(tensors, {"snapshot": json.dumps(header)})))
    tensors["99.0"] = torch.zeros(16, 2, 4)
    with pytest.raises(ConfigError, match="snapshot"):
        open_session().restore(sealed(save(tensors, {"snapshot": json.dumps(header)})))


@pytest.mark.parametrize("payload", [b"", b"\0" * 8, b"\xff" * 64, b"[" * 4000])
def test_sealed_nonsense_is_a_config_error(open_session: Opener, payload: bytes) -> None:
    with pytest.raises(ConfigError, match="snapshot"):
        open_session().restore(sealed(payload))
    nested = save({"version": torch.zeros(1)}, {"snapshot": "[" * 100_000})
    with pytest.raises(ConfigError, match="snapshot"):
        open_session().restore(sealed(nested))


def test_other_versions_and_weights_are_named(open_session: Opener) -> None:
    session = open_session()
    data, here = session.snapshot(), session._snapshot_model
    version = (SCHEMA_VERSION + 1).to_bytes(4, "little")
    payload = data[len(MARK) + 36 :]
    newer = MARK + version + hashlib.sha256(MARK + version + payload).digest() + payload
    with pytest.raises(ManifestError, match=f"version {SCHEMA_VERSION + 1}"):
        unpack(newer, here)
    one, other = (dataclasses.replace(here, weights_digest=digest) for digest in ("aa", "bb"))
    state = unpack(data, one)
    assert state.next_index == 0, "a snapshot of a model that tells no digest fits any weights"
    made_with_one = pack(state, (), one)
    unpack(made_with_one, one)
    with pytest.raises(ManifestError, match="other weights"):
        unpack(made_with_one, other)
    with pytest.raises(ManifestError, match="profile"):
        unpack(data, dataclasses.replace(here, profile="tiny"))


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
