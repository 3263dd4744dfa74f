"""A shot that begins with given frames, or is made from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shotstream_rt import ConfigError, Session
from shotstream_rt.film import snapshot
from shotstream_rt.film.replay import sealed
from shotstream_rt.plan.students import STUDENTS

from .films import film
from .given_frames import ENTERS_LATE, clip

Films = Callable[..., Session]
KEEPS = [
    name for name, student in STUDENTS.items()
    if student.rollout.start == "frames" and not student.cache.context_frames
]  # fmt: skip


def start_of(name: str) -> NDArray[np.uint8]:
    """A start of two chunks."""
    return clip(8 * STUDENTS[name].shot.chunk_frames - 3)


@pytest.mark.parametrize("name", KEEPS)
def test_a_shot_shows_what_it_is_given_and_goes_on(name: str, open_student: Films) -> None:
    session, plain = open_student(name), open_student(name)
    given = start_of(name)
    session.cut("a", start=given)
    plain.cut("a")
    chunks, others = list(session.chunks()), list(plain.chunks())
    assert [c.chunk for c in chunks] == list(range(6))
    assert [len(c.pixels) for c in chunks] == [len(c.pixels) for c in others]
    shown = np.concatenate([c.pixels for c in chunks])
    away = np.abs(shown[: len(given)].astype(int) - given)
    assert away.max() <= 1
    # Noise has the address of the chunk behind the start, so what differs is what was read.
    assert not np.array_equal(chunks[2].pixels, others[0].pixels[-len(chunks[2].pixels) :])
    other = open_student(name)
    other.cut("a", start=clip(len(given), seed=2))
    assert not np.array_equal(list(other.chunks())[2].pixels, chunks[2].pixels)


@pytest.mark.parametrize(
    "name,strength",
    [("self-forcing", None), ("causal-forcing-framewise", None), ("infinity-rope", None),
     ("shotstream", 0.5), ("infinity-rope", 0.5), ("causal-forcing-2step", 0.5)],
)  # fmt: skip
def test_a_film_with_a_start_is_saved_and_played_again(
    name: str, strength: float | None, open_student: Films
) -> None:
    options = {"start": start_of(name), "strength": strength}
    whole, session = open_student(name), open_student(name)
    for opened in (whole, session):
        opened.cut("a", **options)
        opened.cut("b")
        opened.cut("c", chunks=3, **options)
    expected = film(whole)
    chunks = session.chunks()
    got = [next(chunks) for _ in range(4)]
    data, branch = session.snapshot(), session.branch()
    rest = expected[len(got) :]
    restored = open_student(name, seed=99)
    restored.restore(data)
    assert film(restored) == rest
    assert film(branch) == rest
    branch.close()
    again = open_student(name)
    again.restore(restored.snapshot())  # all of it was read
    again.cut("d")
    assert film(again)
    told = json.loads(json.dumps(whole.directions()))
    assert [("start" in one) for one in told["directions"]] == [True, False, True]
    played = open_student(name)
    frames = b"".join(f.pixels.tobytes() for f in played.replay(told))
    assert frames == b"".join(entry[3] for entry in expected)


def test_what_was_undone_is_told_without_latents(open_student: Films) -> None:
    session = open_student("self-forcing")
    for text in "ab":
        session.cut(text, start=clip(9), chunks=2)
    list(session.stream())
    session.undo(frame=5)
    (undone,) = session.directions()["undone"]
    (begun,) = undone["directions"]
    assert begun["text"] == "b"
    assert "start" not in begun


def test_a_retake_begins_with_the_same_start_and_going_back_too(open_student: Films) -> None:
    session = open_student("self-forcing")
    session.cut("a", start=start_of("self-forcing"))
    first = film(session)
    session.undo(chunks=5)
    assert film(session) == first[1:]
    session.retake()
    second = film(session)
    assert [entry[3] for entry in second[:2]] == [entry[3] for entry in first[:2]]
    assert all(one[3] != other[3] for one, other in zip(first[2:], second[2:], strict=True))


def test_a_start_where_a_cut_keeps_the_caches_begins_anew(open_student: Films) -> None:
    films = []
    for first in ("a", "another beginning"):
        session = open_student("infinity-rope")
        session.cut(first)
        session.cut("b", start=start_of("infinity-rope"))
        session.cut("c")
        films.append([entry[3] for entry in film(session)])
    assert films[0][:6] != films[1][:6]
    assert films[0][6:] == films[1][6:]


@pytest.mark.parametrize("name", ENTERS_LATE)
def test_a_little_strength_stays_nearer_to_the_frames(name: str, open_student: Films) -> None:
    given, distances = start_of(name), []
    for strength in (0.01, 1.0):
        session = open_student(name)
        session.cut("a", start=given, strength=strength)
        made = np.concatenate([c.pixels for c in session.chunks()])[: len(given)]
        distances.append(np.abs(made.astype(int) - given).mean())
    assert distances[0] < distances[1]
    plain = open_student(name)
    plain.cut("a")
    assert np.array_equal(made, np.concatenate([c.pixels for c in plain.chunks()])[: len(given)])


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("self-forcing", {"start": clip(8)}, r"got 8 frame\(s\), wanted .* 9, 21, 33"),
        ("self-forcing", {"start": clip(1)[0]}, r"got 1 frame\(s\), wanted .* 9, 21, 33"),
        ("self-forcing", {"start": clip(69)}, "up to 57"),  # the whole shot
        ("self-forcing", {"start": clip(9), "chunks": 1}, "shot of one chunk"),
        ("self-forcing", {"start": clip(9)[:, :8]}, r"uint8 \(9, 8, 32, 3\), wanted .* 16x32"),
        ("self-forcing", {"start": clip(9) / 255}, r"got float64 .*, wanted uint8"),
        ("self-forcing", {"start": clip(9)[..., 0]}, "wanted uint8"),
        ("self-forcing", {"start": "cat.png"}, "wanted uint8"),
        ("self-forcing", {"start": [clip(2), 1]}, "start: got"),
        ("self-forcing", {"strength": 0.5}, "without a start"),
        ("self-forcing", {"start": clip(9), "strength": 0}, "above 0"),
        ("self-forcing", {"start": clip(9), "strength": float("nan")}, "above 0"),
        ("self-forcing", {"start": clip(9), "strength": True}, "above 0"),
        ("self-forcing", {"start": clip(9), "strength": "much"}, "above 0"),
        ("shotstream", {"start": clip(9)}, "as context"),
        ("longlive", {"start": clip(9)}, "authors define no given start"),
        ("rolling-forcing", {"start": clip(9)}, "several chunks at once"),
        ("rolling-forcing", {"start": clip(9), "strength": 0.5}, "several chunks at once"),
        ("causal-forcing-1step", {"start": clip(1), "strength": 0.5}, "one denoising step"),
    ],
)
def test_a_start_that_cannot_be_used_says_so(
    name: str, options: dict[str, Any], message: str, open_student: Films
) -> None:
    session = open_student(name)
    with pytest.raises(ConfigError, match=message):
        session.cut("a", **options)
    session.cut("a", chunks=2)
    assert len(film(session)) == 2


def test_how_long_a_start_may_be(open_student: Films) -> None:
    session = open_student("self-forcing")
    assert session.start_lengths() == (9, 21, 33, 45, 57)
    assert session.start_lengths(strength=0.5)[-1] == 69 == session.shot_frames
    assert session.start_lengths(chunks=2) == (9,)
    assert open_student("causal-forcing-framewise").start_lengths() == (1, 5, 9, 13, 17)


def test_views_of_any_order_are_taken(open_student: Films) -> None:
    session, frames = open_student("self-forcing"), clip(9)
    flipped = frames[::-1, :, ::-1, ::-1]
    for start in (flipped, np.ascontiguousarray(flipped)):
        session.cut("a", start=start, chunks=2, seed=1)
    first, second = np.split(np.stack([frame.pixels for frame in session.stream()]), 2)
    assert np.array_equal(first[:9], second[:9])


def test_what_a_caller_does_to_its_frames_later_is_not_seen(open_student: Films) -> None:
    session, calm = open_student("self-forcing"), open_student("self-forcing")
    given = clip(9)
    session.pause()
    session.cut("a", start=given)
    calm.cut("a", start=clip(9))
    given[:] = 0
    session.resume()
    assert film(session) == film(calm)


@pytest.mark.parametrize(
    "damage",
    [
        {"strength": 2.0}, {"strength": "much"}, {"latents": "!"}, {"latents": 5},
        {"latents": "AAAA"}, {"more": 1},
    ],
)  # fmt: skip
def test_a_damaged_start_in_a_film_is_refused(damage: dict[str, Any], open_student: Films) -> None:
    session = open_student("self-forcing")
    session.cut("a", start=clip(9))
    film(session)
    told = json.loads(json.dumps(session.directions()))
    told["directions"][0]["start"] |= damage
    del told["checksum"]
    with pytest.raises(ConfigError, match=r"film\.json: damaged \((start|strength): "):
        session.replay(sealed(told))


@pytest.mark.parametrize("shape", [(1, 2, 16, 2, 4), (1, 21, 16, 2, 4), (1, 3, 16, 4, 4), (3,)])
def test_a_snapshot_with_an_impossible_start_is_refused(
    shape: tuple[int, ...], open_student: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_student("self-forcing")
    session.pause()
    session.cut("a", start=clip(9))
    written = snapshot.save
    monkeypatch.setattr(
        snapshot, "save",
        lambda tensors, **more: written({**tensors, "start.0": torch.zeros(shape)}, **more),
    )  # fmt: skip
    data = session.snapshot()
    with pytest.raises(ConfigError, match=r"damaged \(start: got"):
        session.restore(data)
