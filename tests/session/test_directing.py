"""What cut, prompt, retake and the end-of-shot policies do to a film."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest

from shotstream_rt import ConfigError, Session, Story
from shotstream_rt.loading.load_model import Model

from .caption_sets import caption_set

Opener = Callable[..., Session]


def test_captions_of_context_shots_stand_before_the_own_one(
    open_session: Opener, bundle: Model
) -> None:
    session = open_session(bundle)
    for number in range(9):
        session.cut(f"text {number}")
    list(session.stream())
    begun = [call for call in bundle.pipeline.calls if call[0] == "begin"]  # type: ignore[attr-defined]
    assert [call[4] for call in begun] == [1, 1, 2, 3, 4, 5, 6, 7, 8], "target flags"
    assert [call[3] for call in begun] == [1, 2, 3, 4, 5, 6, 7, 7, 7], "caption rows stay bounded"
    assert begun[8][2] == (2, 3, 4, 5, 6, 7)


def test_story_captions_are_the_originals(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle)
    frames = list(session.story(Story(global_caption="g.", shots=["a", "b"])))
    assert len(frames) == 162
    assert bundle.text.encoded == ["g.shot0:a", "g.shot1:b"]  # type: ignore[attr-defined]


def test_cut_with_a_global_caption_counts_on(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle)
    session.cut("a", global_caption="g.")
    session.cut("b", global_caption="g.")
    list(session.stream())
    assert bundle.text.encoded == ["g.shot0:a", "g.shot1:b"]  # type: ignore[attr-defined]


def test_prompt_steers_from_the_next_boundary_and_keeps_earlier_chunks(
    open_session: Opener, bundle: Model
) -> None:
    plain = open_session(queue_chunks=1)
    plain.cut("a")
    expected = [chunk.pixels.tobytes() for chunk in plain.chunks()]
    caption_set(bundle.captions, ["something else"])  # else the shot may end before it is
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


def test_prompt_needs_a_running_shot(open_session: Opener) -> None:
    session = open_session()
    with pytest.raises(ConfigError, match="no shot is running or queued"):
        session.prompt("c")
    session.cut("a")
    list(session.stream())
    with pytest.raises(ConfigError, match="all its chunks are made"):
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


def test_extend_goes_on_until_cut(open_session: Opener, bundle: Model) -> None:
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
    open_session: Opener, bundle: Model
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
