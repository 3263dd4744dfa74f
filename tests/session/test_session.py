"""What a session promises, on a model that takes no time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from shotstream_rt import (
    Chunk,
    ConfigError,
    Frame,
    FrameTimeoutError,
    Session,
    SessionClosedError,
    ShotStreamError,
    Story,
    WeightsError,
)
from shotstream_rt.model.loading import ModelBundle

Opener = Callable[..., Session]


def digest(frames: Iterator[Frame]) -> list[tuple[int, int, int, bytes]]:
    return [(f.index, f.shot, f.chunk, f.pixels.tobytes()) for f in frames]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited ten seconds"
        time.sleep(0.002)


def chunks_computed(bundle: ModelBundle) -> int:
    return sum(call[0] == "chunk" for call in bundle.pipeline.calls)  # type: ignore[attr-defined]


def test_five_cuts_give_405_numbered_frames(open_session: Opener) -> None:
    session = open_session()
    for number in range(5):
        session.cut(f"shot {number}")
    frames = list(session.stream())
    assert [f.index for f in frames] == list(range(405))
    assert [f.shot for f in frames] == [n for n in range(5) for _ in range(81)]
    assert [f.chunk for f in frames[:81]] == [0] * 9 + [n for n in range(1, 7) for _ in range(12)]
    assert frames[16].pts_s == 1.0
    assert frames[0].pixels.shape == (16, 32, 3)
    assert frames[0].pixels.dtype == np.uint8


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


def test_same_seed_same_bytes_other_seed_other_bytes(open_session: Opener) -> None:
    films = []
    for seed in (5, 5, 6):
        session = open_session(seed=seed)
        session.cut("a")
        session.cut("b")
        films.append(digest(session.stream()))
    assert films[0] == films[1]
    assert films[0] != films[2]


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


def test_reader_that_stops_stops_the_generator(open_session: Opener, bundle: ModelBundle) -> None:
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
    open_session: Opener, bundle: ModelBundle, policy: str, kept: list[int]
) -> None:
    session = open_session(bundle, queue_chunks=2, queue_policy=policy)
    for _ in range(3):
        session.cut("a")
    wait_for(lambda: session.stats["frames"] == 243)
    numbers = [chunk.shot * 7 + chunk.chunk for chunk in session.chunks()]
    assert numbers[-1] == 20
    assert set(numbers) <= set(kept)
    assert session.stats["dropped"] == 21 - len(numbers)


def test_first_frame_leaves_before_the_second_chunk(
    open_session: Opener, bundle: ModelBundle
) -> None:
    session = open_session(bundle, queue_chunks=8)
    bundle.codec.decode_gate.clear()  # type: ignore[attr-defined]
    session.cut("a")
    wait_for(lambda: chunks_computed(bundle) == 1)
    time.sleep(0.05)
    assert chunks_computed(bundle) == 1, "nothing competes with the first frames"
    assert ("commit", 0) in bundle.pipeline.calls  # type: ignore[attr-defined]
    bundle.codec.decode_gate.set()  # type: ignore[attr-defined]
    list(session.stream())
    assert session.stats["shots"][0]["first_frame_before_second_chunk"]


def test_last_chunk_of_a_shot_needs_no_clean_pass(
    open_session: Opener, bundle: ModelBundle
) -> None:
    session = open_session(bundle)
    session.cut("a")
    list(session.stream())
    calls = [call[0] for call in bundle.pipeline.calls]  # type: ignore[attr-defined]
    assert calls == ["begin", *["chunk", "commit"] * 6, "chunk"]


def test_captions_of_context_shots_stand_before_the_own_one(
    open_session: Opener, bundle: ModelBundle
) -> None:
    session = open_session(bundle)
    for number in range(9):
        session.cut(f"text {number}")
    list(session.stream())
    begun = [call for call in bundle.pipeline.calls if call[0] == "begin"]  # type: ignore[attr-defined]
    assert [call[4] for call in begun] == [1, 1, 2, 3, 4, 5, 6, 7, 8], "target flags"
    assert [call[3] for call in begun] == [1, 2, 3, 4, 5, 6, 7, 7, 7], "caption rows stay bounded"
    assert begun[8][2] == (2, 3, 4, 5, 6, 7)


def test_story_captions_are_the_originals(open_session: Opener, bundle: ModelBundle) -> None:
    session = open_session(bundle)
    frames = list(session.story(Story(global_caption="g.", shots=["a", "b"])))
    assert len(frames) == 162
    assert bundle.text.encoded == ["g.shot0:a", "g.shot1:b"]  # type: ignore[attr-defined]


def test_cut_with_a_global_caption_counts_on(open_session: Opener, bundle: ModelBundle) -> None:
    session = open_session(bundle)
    session.cut("a", global_caption="g.")
    session.cut("b", global_caption="g.")
    list(session.stream())
    assert bundle.text.encoded == ["g.shot0:a", "g.shot1:b"]  # type: ignore[attr-defined]


def test_prompt_steers_from_the_next_boundary_and_keeps_earlier_chunks(
    open_session: Opener, bundle: ModelBundle
) -> None:
    plain = open_session(queue_chunks=1)
    plain.cut("a")
    expected = [chunk.pixels.tobytes() for chunk in plain.chunks()]
    session = open_session(bundle, queue_chunks=1)
    session.cut("a")
    film = []
    for chunk in session.chunks():
        film.append(chunk.pixels.tobytes())
        if chunk.chunk == 1:
            session.prompt("something else")
    calls = bundle.pipeline.calls  # type: ignore[attr-defined]
    changed = next(i for i, call in enumerate(calls) if call[0] == "captions")
    first = next(call[2] for call in calls[changed:] if call[0] == "chunk")
    assert first >= 2
    assert film[:first] == expected[:first]
    assert film[first:] != expected[first:]


def test_prompt_rewords_a_shot_not_begun(open_session: Opener, bundle: ModelBundle) -> None:
    bundle.pipeline.gate.clear()  # type: ignore[attr-defined]
    session = open_session(bundle)
    session.cut("a")
    session.cut("b", now=False)
    bundle.pipeline.gate.set()  # type: ignore[attr-defined]
    list(session.stream())
    with pytest.raises(ConfigError, match="no shot is running"):
        session.prompt("c")


def test_now_cuts_into_the_running_shot(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a")
    shots = []
    for chunk in session.chunks():
        shots.append(chunk.shot)
        if len(shots) == 2:
            session.cut("b", now=True)
    assert shots[0] == 0
    assert 2 <= shots.count(0) < 7
    assert shots.count(1) == 7


def test_extend_goes_on_until_cut(open_session: Opener, bundle: ModelBundle) -> None:
    session = open_session(bundle, at_end="extend")
    session.cut("a")
    chunks = list(islice(session.chunks(), 12))
    assert [c.chunk for c in chunks] == list(range(12))
    session.cut("b")
    assert any(c.shot == 1 for c in islice(session.chunks(), 6))


def test_loop_repeats_the_caption(open_session: Opener) -> None:
    session = open_session(at_end="loop")
    session.cut("a")
    assert [c.shot for c in islice(session.chunks(), 15)] == [0] * 7 + [1] * 7 + [2]


def test_retake_makes_the_last_shot_again_with_other_noise(
    open_session: Opener, bundle: ModelBundle
) -> None:
    session = open_session(bundle)
    session.cut("a")
    session.cut("b")
    frames = list(session.stream())
    session.retake()
    again = list(session.stream())
    assert [f.shot for f in again] == [1] * 81
    assert again[0].index == 162
    first = np.stack([f.pixels for f in frames[81:]])
    assert not np.array_equal(first, np.stack([f.pixels for f in again]))
    begun = [call for call in bundle.pipeline.calls if call[0] == "begin"]  # type: ignore[attr-defined]
    assert begun[1] == begun[2], "same number, same context"
    session.cut("c")
    list(session.stream())
    begun = [call for call in bundle.pipeline.calls if call[0] == "begin"]  # type: ignore[attr-defined]
    assert begun[3][2] == (0, 0, 0, 1, 1, 1), "the retake counts once in the context"


def test_take_argument_equals_a_retake(open_session: Opener) -> None:
    retaken, chosen = open_session(), open_session()
    retaken.cut("a")
    list(retaken.stream())
    retaken.retake()
    chosen.cut("a", take=1)
    assert [f.pixels.tobytes() for f in retaken.stream()] == [
        f.pixels.tobytes() for f in chosen.stream()
    ]


def test_follow_waits_for_a_cut_from_another_thread(open_session: Opener) -> None:
    session = open_session()
    timer = threading.Timer(0.05, session.cut, ["late"])
    timer.start()
    frame = next(session.stream(follow=True))
    assert frame.index == 0


def test_timeout_is_an_error_of_its_own(open_session: Opener, bundle: ModelBundle) -> None:
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


def test_many_threads_may_ask(open_session: Opener) -> None:
    session = open_session()
    threads = [threading.Thread(target=session.cut, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(session.stream())) == 8 * 81


@pytest.mark.parametrize(
    ("error", "kind"),
    [(None, ShotStreamError), (WeightsError("layer 3 is NaN"), WeightsError)],
)
def test_failure_reaches_the_reader_with_its_cause(
    open_session: Opener, bundle: ModelBundle, error: Exception | None, kind: type[Exception]
) -> None:
    pipeline: Any = bundle.pipeline
    pipeline.fail_at = (0, 2)
    if error is not None:
        pipeline.commit = lambda: (_ for _ in ()).throw(error)
    session = open_session(bundle)
    session.cut("a")
    seen = 0
    with pytest.raises(kind) as caught:
        for _ in session.stream():
            seen += 1
    assert caught.value.__cause__ is not None
    assert seen == (21 if error is None else 9), "what was ready before is delivered"
    with pytest.raises(kind):
        session.cut("b")
    session.close()


def test_decoder_failure_reaches_the_reader(open_session: Opener, bundle: ModelBundle) -> None:
    codec: Any = bundle.codec
    codec.decode_gate = None
    session = open_session(bundle)
    session.cut("a")
    with pytest.raises(ShotStreamError, match="AttributeError"):
        list(session.stream())
    codec.decode_gate = threading.Event()


def test_closed_session_refuses_everything(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")
    stream = session.stream()
    next(stream)
    session.close()
    session.close()
    assert session.closed
    for use in (
        lambda: session.cut("b"),
        lambda: session.prompt("b"),
        lambda: session.retake(),
        lambda: session.snapshot(),
        lambda: session.restore(b""),
        lambda: session.story(Story(shots=["a"])),
        lambda: session.check("a"),
        lambda: next(session.stream()),
        lambda: next(session.chunks()),
        lambda: next(stream),
    ):
        with pytest.raises(SessionClosedError):
            use()


def test_close_wakes_a_waiting_reader_and_ends_the_threads(open_session: Opener) -> None:
    session = open_session()
    timer = threading.Timer(0.05, session.close)
    timer.start()
    with pytest.raises(SessionClosedError):
        next(session.stream(follow=True))
    timer.join()
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("shotstream-") for name in names)


def test_close_with_unread_frames_does_not_hang(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    for _ in range(5):
        session.cut("a")
    session.close()


@pytest.mark.parametrize("text", ["", "   \n", None, 7, b"bytes", ["a"]])
def test_unusable_prompts_are_config_errors(open_session: Opener, text: Any) -> None:
    session = open_session()
    for use in (session.cut, session.prompt, session.check):
        with pytest.raises(ConfigError, match="prompt"):
            use(text)


@pytest.mark.parametrize("seed", [float("nan"), -1, 2**63, 1.0, "1", None, True])
def test_unusable_seeds_are_config_errors(open_session: Opener, seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed"):
        open_session(seed=seed)
    if seed is not None:
        with pytest.raises(ConfigError, match="seed"):
            open_session().cut("a", seed=seed)


@pytest.mark.parametrize(
    "options",
    [
        {"at_end": "stop"},
        {"queue_policy": "drop"},
        {"queue_chunks": 0},
        {"queue_chunks": 1.5},
        {"threads": 0},
    ],
)
def test_unusable_options_are_config_errors(open_session: Opener, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        open_session(**options)


def test_notes_tell_what_is_not_understood(open_session: Opener) -> None:
    session = open_session()
    assert session.cut("a xyzzy") == ("unknown word: xyzzy",)
    assert session.check("a plain one") == ()


def test_long_session_keeps_nothing_it_does_not_need(
    open_session: Opener, bundle: ModelBundle
) -> None:
    session = open_session(bundle)
    for number in range(40):
        session.cut(f"text {number}")
    for _ in session.stream():
        pass
    selector = session._crew.selector
    assert len(selector.past) == 6
    assert len(session._generator._runs) <= 1
    assert len(session.stats["shots"]) == 40


def test_thirty_shots_do_not_grow_memory(open_session: Opener, large_bundle: ModelBundle) -> None:
    session = open_session(large_bundle)
    resident = {}
    for number in range(30):
        session.cut(f"text {number}")
        for _ in session.stream():
            pass
        resident[number] = session.stats["memory_bytes"]
    if resident[0] is None:
        pytest.skip("this system does not tell resident memory")
    # A shot's frames are 14 MiB; the allocator's own warm-up is allowed half of that.
    assert resident[29] <= 1.05 * resident[3] + (7 << 20)


def test_stats_are_plain_json(open_session: Opener) -> None:
    import json

    session = open_session()
    session.cut("a")
    list(session.stream())
    stats = json.loads(json.dumps(session.stats))
    assert stats["frames"] == 81
    shot = stats["shots"][0]
    assert 0 < shot["cut_ms"] <= shot["first_frame_ms"] + 1
    assert stats["chunk_ms"]["n"] == 7
    assert stats["commit_ms"]["n"] == 6
