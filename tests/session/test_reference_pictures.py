"""Pictures that a cut is given: what the shot sees, what is refused, and that it is replayed."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from shotstream_rt import ConfigError, Model, Session
from shotstream_rt.film import reference
from shotstream_rt.film.reference import ReferencePicture, reference_pictures
from shotstream_rt.types import Frame, MemoryFrame

Opener = Callable[..., Session]
SIZE = 16, 32


def flat(level: int, height: int = SIZE[0], width: int = SIZE[1]) -> Any:
    return np.full((height, width, 3), level, np.uint8)


def read(session: Session, count: int = 1000) -> list[Frame]:
    return list(islice(session.stream(timeout_s=30), count))


def seen(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note the context of every shot from now on that has a past or pictures."""
    found: list[Any] = []
    selector = session._film.workers.selector
    plain = selector.select

    def select(*arguments: Any) -> Any:
        found.append(plain(*arguments))
        return found[-1]

    monkeypatch.setattr(selector, "select", select)
    return found


def levels(selection: Any) -> list[float]:
    return [round(float(latent.mean()), 2) for latent in selection.latents[0]]


def test_a_first_shot_sees_nothing_but_pictures(
    open_session: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session()
    told = seen(session, monkeypatch)
    session.cut("a", chunks=1, images=[flat(0), flat(255)])
    read(session)
    assert levels(told[0]) == [-1, -1, -1, 1, 1, 1]
    assert told[0].flags == (0,) * 6
    assert told[0].target_flag == 1
    assert told[0].captions == {0: "a"}
    assert told[0].indices == ()


@pytest.mark.parametrize("flush", [False, True])
def test_two_callers_at_once_get_no_more_room_than_there_is(
    open_session: Opener, monkeypatch: pytest.MonkeyPatch, flush: bool
) -> None:
    monkeypatch.setattr(reference, "MOST_BYTES", 3 * SIZE[0] * SIZE[1] * 3)
    session = open_session()
    session.pause()
    looked = session._film.director.pictures

    def meanwhile(*arguments: Any) -> Any:  # another caller comes in behind the first look
        found = looked(*arguments)
        monkeypatch.setattr(session._film.director, "pictures", looked)
        session.cut("other", images=[flat(1), flat(2)])
        return found

    monkeypatch.setattr(session._film.director, "pictures", meanwhile)
    with pytest.raises(ConfigError, match="would hold 4 different pictures"):
        session.cut("a", images=[flat(3), flat(4)], flush=flush)
    assert [shot.text for shot in session.state.pending] == ["other"]
    open_session().restore(session.snapshot())


def test_pictures_stand_right_before_the_shot(
    open_session: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session()
    told = seen(session, monkeypatch)
    session.cut("a")
    session.cut("b", chunks=1)
    session.cut("c", chunks=1, images=[flat(255)])
    session.cut("d", chunks=1)
    read(session)
    plain, pictured, after = told
    assert plain.flags == (0,) * 6
    assert pictured.flags[-2:] == (1, 2)
    assert pictured.target_flag == 3
    assert levels(pictured)[-1] == 1
    assert pictured.captions == {0: "a", 1: "b", 2: "c"}
    assert len(pictured.indices) == 5
    assert after.flags[-1] == 2, "the shot that saw it is remembered, it is not"
    assert len(after.indices) == 6


def test_a_pin_stays_beside_pictures(open_session: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(past: tuple[MemoryFrame, ...], budget: int, _: str) -> list[MemoryFrame]:
        asked.append(budget)
        return [*past[:1]]

    asked: list[int] = []
    session = open_session()
    told = seen(session, monkeypatch)
    session.cut("a")
    read(session)
    session.pin(0)
    session.cut("b", chunks=1, images=[flat(0)] * 4)
    session.cut("c", chunks=1, images=[flat(0)] * 6)
    read(session)
    assert [one.indices for one in told] == [(0, 80), ()]
    chosen = open_session(choose=choose)
    chosen.cut("a", chunks=1)
    chosen.cut("b", chunks=1, images=[flat(0)] * 4)
    read(chosen)
    assert asked == [2]
    assert chosen.directions()["directions"][1]["context"] == [0, 0]


def test_a_retake_sees_them_and_a_loop_does_not(
    open_session: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(at_end="loop", queue_chunks=1)
    told = seen(session, monkeypatch)
    session.cut("a", images=[flat(255)])
    read(session, 5)
    session.retake(flush=True)
    read(session, 90)
    assert [levels(one)[-1] == 1 for one in told[:3]] == [True, True, False]


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (flat(0), "got ndarray, wanted a list"),
        ("cat.png", "got str, wanted a list"),
        ([b"\x89PNG"], r"images\[0\]: got bytes, wanted a NumPy array"),
        ([flat(0)] * 7, "got 7, wanted at most 6"),
        ([flat(0), flat(0)[..., 0]], r"images\[1\]: got uint8 \[16, 32\]"),
        ([flat(0).astype(np.float32)], r"images\[0\]: got float32"),
        ([flat(0)[..., :0]], "wanted uint8"),
        ([flat(0)[:0]], "wanted uint8"),
        ([np.broadcast_to(np.uint8(0), (20_000, 20_000, 3))], "20000x20000 pixels, wanted at most"),
    ],
    ids=["array", "name", "bytes", "many", "flat", "float", "grey", "empty", "huge"],
)
def test_what_is_no_picture_is_refused_at_once(
    open_session: Opener, images: Any, reason: str
) -> None:
    session = open_session()
    with pytest.raises(ConfigError, match=reason):
        session.cut("a", images=images)
    assert session.state.pending == ()


def test_a_film_holds_so_many_pictures(
    open_session: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "MOST_BYTES", 2 * 16 * 32 * 3)
    session = open_session()
    session.cut("a", images=[flat(1), flat(2)])
    session.cut("b", images=[flat(2), flat(1)])
    with pytest.raises(ConfigError, match="3 different pictures, wanted at most 2"):
        session.cut("c", images=[flat(3)])
    session.cut("d")
    assert len({id(image) for run in session._film.timeline.playlist.pending for image in
                run.images}) <= 2, "the same picture is held once"  # fmt: skip


@pytest.mark.parametrize("shape", [(16, 32), (40, 200), (200, 40), (1, 1), (4096, 8)])
def test_the_middle_of_a_picture_is_scaled(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    image[..., 0] = 200
    (made,) = reference_pictures([image], SIZE, 6)
    assert made.pixels.shape == (*SIZE, 3)
    assert np.unique(made.pixels[..., 0]).tolist() == [200]
    assert not made.pixels[..., 1:].any()


def test_what_is_cut_off_is_the_border() -> None:
    image = flat(0, 64, 256)
    image[:, :64] = image[:, -64:] = 255
    (made,) = reference_pictures([image], SIZE, 6)
    assert not made.pixels.any()


def test_a_later_change_of_the_array_changes_nothing() -> None:
    image = flat(7)
    (made,) = reference_pictures([image], SIZE, 6)
    image[:] = 9
    assert (made.pixels == 7).all()
    assert made == ReferencePicture.of(flat(7))
    assert made != ReferencePicture.of(flat(9))


def test_pixels_are_the_inverse_of_packing() -> None:
    from shotstream_rt.kernels.reference.frame_pack import frame_pack

    grey = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1).expand(-1, -1, 3)
    picture = ReferencePicture.of(grey.contiguous().numpy())
    assert (frame_pack(picture.to_floats()[None])[0].int() - grey).abs().max() <= 1


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (50, 70, 3), np.uint8)


def pictured(session: Session) -> list[bytes]:
    session.cut("a", chunks=2, images=[noise(1)])
    session.cut("b", chunks=2, images=[noise(2), noise(1)])
    return [frame.pixels.tobytes() for frame in read(session)]


def test_directions_make_the_film_again(open_session: Opener) -> None:
    session = open_session(seed=5)
    frames = pictured(session)
    made = json.loads(json.dumps(session.directions()))
    assert len(made["pictures"]) == 2
    again = open_session(seed=6)
    assert [frame.pixels.tobytes() for frame in again.replay(made)] == frames
    assert again.directions()["pictures"] == made["pictures"]
    other = open_session(seed=5)
    other.cut("a", chunks=2)
    other.cut("b", chunks=2)
    assert [frame.pixels.tobytes() for frame in read(other)] != frames, "they matter"


@pytest.mark.parametrize("at", [5, 21, 30])
def test_undo_branch_and_snapshot_keep_them(open_session: Opener, bundle: Model, at: int) -> None:
    first = open_session(seed=5)
    whole = pictured(first)
    made: Any = bundle
    made.new_pipeline = lambda: type(made.pipeline)(made.config)  # each session has its own
    session = open_session(bundle, seed=5, queue_chunks=1)
    session.cut("a", chunks=2, images=[noise(1)])
    session.cut("b", chunks=2, images=[noise(2), noise(1)])
    read(session, at)
    data = session.snapshot()
    with session.branch() as branch:
        assert [frame.pixels.tobytes() for frame in read(branch)] == whole[at:]
    read(session)
    session.undo(frame=at)  # shot 1 is undone if it had not begun there
    assert [frame.pixels.tobytes() for frame in read(session)] == whole[at : 21 if at < 21 else 42]
    restored = open_session(seed=9)
    restored.restore(data)
    rest = read(restored)
    assert [frame.pixels.tobytes() for frame in rest] == whole[rest[0].index :]
    for name in ("directions", "pictures"):
        assert restored.directions()[name] == first.directions()[name]


def test_damaged_pictures_are_refused(open_session: Opener) -> None:
    from shotstream_rt.film.replay import sealed

    session = open_session(seed=5)
    pictured(session)
    made = session.directions()
    digest, text = next(iter(made["pictures"].items()))
    bomb = base64.b64encode(zlib.compress(bytes(10_000_000))).decode()
    other = base64.b64encode(zlib.compress(bytes(16 * 32 * 3))).decode()
    for pictures in ({}, {digest: text}, {**made["pictures"], digest: other},
                     {**made["pictures"], digest: bomb}, {**made["pictures"], digest: text[:-8]},
                     {**made["pictures"], digest: 7}, []):  # fmt: skip
        content = {**made, "pictures": pictures}
        del content["checksum"]
        with pytest.raises(ConfigError, match=r"film\.json: damaged"):
            open_session().replay(sealed(content))
