"""What a prompt computes anew of the running shot, and that a film that did is made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from shotstream_rt import ConfigError, Model, Session
from shotstream_rt.config import RolloutConfig
from shotstream_rt.types import Frame

from ..patience import PATIENCE_S, wait_for

Opener = Callable[..., Session]


def read(session: Session, count: int = 1000) -> list[Frame]:
    return list(islice(session.stream(timeout_s=PATIENCE_S), count))


def pixels(frames: list[Frame]) -> list[bytes]:
    return [frame.pixels.tobytes() for frame in frames]


def rereads(bundle: Model) -> list[Any]:
    calls = bundle.pipeline.calls  # type: ignore[attr-defined]
    return [call[2] for call in calls if call[0] == "reread"]


@pytest.mark.parametrize(
    ("reread", "chunks"),
    [("none", []), (0, []), (1, [(2,)]), (2, [(1, 2)]), (9, [(0, 1, 2)]), ("shot", [(0, 1, 2)])],
)
def test_the_newest_chunks_are_computed_anew(
    open_session: Opener, bundle: Model, reread: Any, chunks: list[Any]
) -> None:
    session = open_session(bundle, queue_chunks=1)
    session.cut("a")
    read(session, 40)  # within chunk 3
    session.prompt("b", flush=True, reread=reread)
    read(session, 1)
    assert rereads(bundle) == chunks
    told = session.directions()["directions"][-1]
    assert (told["kind"], told["frame"], told["chunk"]) == ("prompt", 40, 3)
    assert told["reread"] == sum(map(len, chunks))


@pytest.mark.parametrize("reread", ["all", -1, 1.5, None, True, [1]])
def test_what_is_no_such_number_is_refused(open_session: Opener, reread: Any) -> None:
    session = open_session()
    session.cut("a")
    with pytest.raises(ConfigError, match="reread"):
        session.prompt("b", reread=reread)


def test_a_student_with_other_caches_refuses_it(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle)
    director: Any = session._film.director
    director._rollout = RolloutConfig(prompt="recache")
    session.cut("a")
    with pytest.raises(ConfigError, match="not made chunk by chunk"):
        session.prompt("b", reread="shot")
    session.prompt("b", reread="none")


@pytest.mark.parametrize("reread", [0, 1, "shot"])
@pytest.mark.parametrize("at", [33, 40])
def test_directions_make_the_film_again(open_session: Opener, reread: Any, at: int) -> None:
    session = open_session(seed=3, queue_chunks=1)
    session.cut("a")
    frames = pixels(read(session, at))
    session.prompt("bb", flush=True, reread=reread)
    frames += pixels(read(session, 20))
    session.prompt("ccc", flush=True, reread=reread)
    frames += pixels(read(session))
    made = json.loads(json.dumps(session.directions()))
    assert pixels(list(open_session().replay(made))) == frames


def test_undo_of_a_reread_takes_its_keys_back(open_session: Opener) -> None:
    """Frames behind the undo are made of what the chunks before were without the new caption."""
    session = open_session(seed=3, queue_chunks=1)
    session.cut("a")
    whole = pixels(read(session))
    for at, back in ((40, 33), (40, 12), (33, 33)):
        session.undo(frame=at)
        session.prompt("bb", flush=True, reread="shot")
        assert pixels(read(session, 5)) != whole[at : at + 5]
        session.undo(frame=back)
        assert pixels(read(session)) == whole[back:]


def test_a_reread_that_is_kept_need_not_be_made_again(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle, queue_chunks=1)
    session.cut("a")
    read(session, 20)
    session.prompt("bb", flush=True, reread="shot")
    rest = pixels(read(session))
    session.undo(frame=33)
    assert pixels(read(session)) == rest[13:]
    assert rereads(bundle) == [(0,)], "once"


def test_snapshot_and_branch_keep_it(open_session: Opener, bundle: Model) -> None:
    made: Any = bundle
    made.new_pipeline = lambda: type(made.pipeline)(made.config)
    session = open_session(bundle, seed=3, queue_chunks=1)
    session.cut("a")
    read(session, 33)
    session.prompt("bb", flush=True, reread=2)
    read(session, 24)
    data, restored = session.snapshot(), open_session()
    with session.branch() as branch:
        theirs = pixels(read(branch))
    ours = pixels(read(session))
    restored.restore(data)
    assert pixels(read(restored)) == theirs == ours


def test_a_clean_pass_that_was_left_out_has_the_caption_of_its_chunk(
    open_session: Opener, bundle: Model
) -> None:
    """It is left out when a cut is due; that one is taken back, and a prompt comes."""
    made: Any = bundle
    session = open_session(bundle, queue_chunks=1)
    session.cut("a")
    made.pipeline.gate.clear()
    wait_for(lambda: session.state.making)
    due = session.cut("never", now=True)
    session.pause()
    wait_for(lambda: session.state.pending[0].encoded)
    made.pipeline.gate.set()
    wait_for(lambda: not session.state.making and session.state.unread_frames >= 9)
    session.cancel(due)
    session.prompt("never")  # which is encoded already
    session.resume()
    read(session, 30)
    kinds = [call[0] for call in made.pipeline.calls]
    first, prompted = kinds.index("commit"), kinds.index("captions")
    assert first < prompted, kinds
