"""What a reader of frames and chunks is promised."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from shotstream_rt import Chunk, FrameTimeoutError, Session
from shotstream_rt.loading.load_model import Model

from ..patience import wait_for

Opener = Callable[..., Session]


def chunks_computed(bundle: Model) -> int:
    return sum(call[0] == "chunk" for call in bundle.pipeline.calls)  # type: ignore[attr-defined]


def test_stream_ends_and_goes_on_after_another_cut(open_session: Opener) -> None:
    session = open_session()
    assert list(session.stream()) == []
    session.cut("a")
    assert len(list(session.stream())) == 81
    session.cut("b")
    assert [f.index for f in session.stream()] == list(range(81, 162))


def test_frames_left_unread_are_kept(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")
    first = list(islice(session.stream(), 4))
    rest = list(session.stream())
    assert [f.index for f in first + rest] == list(range(81))


def test_chunks_carry_the_frames_of_the_stream(open_session: Opener) -> None:
    sessions = [open_session(seed=3) for _ in range(2)]
    for session in sessions:
        session.cut("a")
    frames = np.stack([f.pixels for f in sessions[0].stream()])
    chunks = list(sessions[1].chunks())
    assert [len(c.pixels) for c in chunks] == [9] + [12] * 6
    assert [c.index for c in chunks] == [0, 9, 21, 33, 45, 57, 69]
    assert np.array_equal(np.concatenate([c.pixels for c in chunks]), frames)


def test_chunk_follows_frames_taken_from_it(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")
    next(iter(session.stream()))
    rest = next(session.chunks())
    assert (rest.index, len(rest.pixels)) == (1, 8)


def test_chunk_speaks_dlpack(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")
    chunk: Chunk = next(session.chunks())
    assert torch.equal(torch.from_dlpack(chunk), torch.from_numpy(chunk.pixels))


def test_chunks_may_stay_on_the_device(open_session: Opener) -> None:
    host, device = open_session(), open_session(keep_on_device=True)
    host.cut("a")
    device.cut("a")
    chunk = next(device.chunks())
    assert isinstance(chunk.pixels, torch.Tensor)
    assert np.array_equal(torch.from_dlpack(chunk).numpy(), next(host.chunks()).pixels)
    assert np.array_equal(next(device.stream()).pixels, next(host.stream()).pixels)


def test_frame_pixels_are_read_only(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")
    frame = next(session.stream())
    with pytest.raises(ValueError, match="read-only"):
        frame.pixels[0, 0, 0] = 1


def test_frames_do_not_depend_on_the_reader(open_session: Opener) -> None:
    films = []
    for queue_chunks, pause_s in ((1, 0.003), (8, 0.0)):
        session = open_session(queue_chunks=queue_chunks)
        session.cut("a")
        session.cut("b")
        film = []
        for chunk in session.chunks():
            time.sleep(pause_s)
            film.append(chunk.pixels.tobytes())
        films.append(film)
    assert films[0] == films[1]


def test_reader_that_stops_stops_the_generator(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle, queue_chunks=2)
    for _ in range(3):
        session.cut("a")
    wait_for(lambda: chunks_computed(bundle) == 2)
    time.sleep(0.05)
    assert chunks_computed(bundle) == 2
    next(session.chunks())
    wait_for(lambda: chunks_computed(bundle) == 3)
    time.sleep(0.05)
    assert chunks_computed(bundle) == 3


@pytest.mark.parametrize(("policy", "kept"), [("drop_oldest", [19, 20]), ("latest", [20])])
def test_dropping_policies_never_wait(
    open_session: Opener, bundle: Model, policy: str, kept: list[int]
) -> None:
    session = open_session(bundle, queue_chunks=2, queue_policy=policy)
    for _ in range(3):
        session.cut("a")
    wait_for(lambda: session.stats["frames"] == 243)
    numbers = [chunk.shot * 7 + chunk.chunk for chunk in session.chunks()]
    assert numbers[-1] == 20
    assert set(numbers) <= set(kept)
    assert session.stats["dropped"] == 21 - len(numbers)


def test_first_frame_leaves_before_the_second_chunk(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle, queue_chunks=8)
    bundle.codec.decode_gate.clear()  # type: ignore[attr-defined]
    session.cut("a")
    wait_for(lambda: chunks_computed(bundle) == 1)
    time.sleep(0.05)
    assert chunks_computed(bundle) == 1, "nothing competes with the first frames"
    assert ("commit", 0) not in bundle.pipeline.calls  # type: ignore[attr-defined]
    bundle.codec.decode_gate.set()  # type: ignore[attr-defined]
    list(session.stream())
    assert session.stats["shots"][0]["first_frame_before_second_chunk"]


def test_a_cuts_caption_is_prepared_while_the_last_chunk_is_decoded(
    open_session: Opener, bundle: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, decoding = bundle.pipeline, bundle.codec.decode_gate  # type: ignore[attr-defined]
    run_chunk = pipeline.run_chunk

    def run_and_hold(chunk: int, *others: Any) -> Any:
        if chunk == 1:
            decoding.clear()
        return run_chunk(chunk, *others)

    monkeypatch.setattr(pipeline, "run_chunk", run_and_hold)
    session = open_session(bundle, queue_chunks=8)
    session.cut("a", chunks=2)
    session.cut("b", chunks=1)
    wait_for(lambda: len(pipeline.prepared) == 2)
    begun = [call[1] for call in pipeline.calls if call[0] == "begin"]
    assert begun == [0], "the second shot waits for the first one's pixels"
    decoding.set()
    list(session.stream())
    assert pipeline.prepared == [("a",), ("b",)]
    # The context's caption comes with the same key, so it is found again.
    assert pipeline.running.captions.keys == ("a", "b")


def test_follow_waits_for_a_cut_from_another_thread(open_session: Opener) -> None:
    session = open_session()
    timer = threading.Timer(0.05, session.cut, ["late"])
    timer.start()
    frame = next(session.stream(follow=True))
    assert frame.index == 0


def test_timeout_is_an_error_of_its_own(open_session: Opener, bundle: Model) -> None:
    bundle.pipeline.gate.clear()  # type: ignore[attr-defined]
    session = open_session(bundle)
    session.cut("a")
    with pytest.raises(FrameTimeoutError):
        next(session.stream(timeout_s=0.05))
    with pytest.raises(FrameTimeoutError):
        next(open_session().stream(follow=True, timeout_s=0.05))


def test_async_stream_gives_the_same_frames(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")

    async def read() -> list[int]:
        return [frame.index async for frame in session.astream()]

    assert asyncio.run(read()) == list(range(81))
