"""What a session promises, on a model that takes no time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from shotstream_rt import Frame, Session
from shotstream_rt.loading.load_model import Model

Opener = Callable[..., Session]


def digest(frames: Iterator[Frame]) -> list[tuple[int, int, int, bytes]]:
    return [(f.index, f.shot, f.chunk, f.pixels.tobytes()) for f in frames]


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


def test_same_seed_same_bytes_other_seed_other_bytes(open_session: Opener) -> None:
    films = []
    for seed in (5, 5, 6):
        session = open_session(seed=seed)
        session.cut("a")
        session.cut("b")
        films.append(digest(session.stream()))
    assert films[0] == films[1]
    assert films[0] != films[2]


def test_last_chunk_of_a_shot_needs_no_clean_pass(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle)
    session.cut("a")
    list(session.stream())
    calls = [call[0] for call in bundle.pipeline.calls]  # type: ignore[attr-defined]
    assert calls == ["begin", *["chunk", "commit"] * 6, "chunk"]


def test_many_threads_may_ask(open_session: Opener) -> None:
    session = open_session()
    threads = [threading.Thread(target=session.cut, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(session.stream())) == 8 * 81


def test_long_session_keeps_nothing_it_does_not_need(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle)
    for number in range(40):
        session.cut(f"text {number}")
    for _ in session.stream():
        pass
    selector = session._film.workers.selector
    assert len(selector.past) == 6
    runs = session._film.timeline.runs
    assert sum(run.past is not None for run in runs) == 2, "older ones are let go"
    assert len(session.stats["shots"]) == 40


def test_thirty_shots_do_not_grow_memory(open_session: Opener, large_bundle: Model) -> None:
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
