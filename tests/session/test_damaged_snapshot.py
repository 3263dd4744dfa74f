"""Snapshots that are damaged, hostile or of another model are refused, and change nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from shotstream_rt import ConfigError, ManifestError, Session
from shotstream_rt.config import CacheConfig, StreamConfig
from shotstream_rt.film.snapshot import MARK, SCHEMA_VERSION, pack, unpack

from .films import film_with_a_past

Opener = Callable[..., Session]


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
