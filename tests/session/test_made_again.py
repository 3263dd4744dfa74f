"""Asks that come while a shot waits to be made again, or is just beginning."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from shotstream_rt import Session, ShotStreamError
from shotstream_rt.film.shots import CaptionChange, ShotRequest, ShotRun
from shotstream_rt.film.stats import ShotTimes
from shotstream_rt.loading.load_model import Model

from .caption_sets import caption_set

Opener = Callable[..., Session]
PATIENCE_S = 30


def until(done: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end_s
        time.sleep(0.001)


def gone_back(session: Session) -> None:
    """Return when the generator has queued once more what an undo takes it to make again."""
    timeline: Any = session._film.timeline
    until(lambda: not timeline.wound_back and timeline.reload is None)
    assert [request.again for request in timeline.playlist.pending] == [True]


def two_shots(session: Session) -> None:
    """Read one shot and half of the next, and go back to the next one's beginning."""
    session.cut("a", chunks=2)
    session.cut("bb", chunks=4)
    list(islice(session.stream(), 21 + 30))
    session.pause()
    session.undo(shot=1)
    gone_back(session)


def same_film(session: Session, model: Model, frames: list[Any]) -> None:
    """Check that what was read is what the directions make."""
    made = json.loads(json.dumps(session.directions()))
    with Session(model, seed=99) as other:
        again = list(other.replay(made))
    assert [(f.shot, f.take, f.caption, f.pixels.tobytes()) for f in again] == [
        (f.shot, f.take, f.caption, f.pixels.tobytes()) for f in frames[: made["frames"]]
    ]


@pytest.mark.parametrize("at_end", ["hold", "extend"])
def test_going_back_further_drops_the_shot_that_was_to_begin_once_more(
    open_session: Opener, new_bundle: Callable[[], Model], at_end: str
) -> None:
    with new_bundle() as model:
        session = open_session(model, seed=3, at_end=at_end)
        two_shots(session)
        session.undo(frame=5)
        assert session.state.pending == ()
        session.cut("ccc", flush=True)
        session.resume()
        frames = list(islice(session.stream(), 40))
        assert {f.caption for f in frames} == {"ccc"}
        assert frames[0].shot == 1
        assert frames[0].index == 5


def test_another_take_of_the_shot_that_was_to_begin_once_more(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    two_shots(session)
    receipt = session.retake()
    session.resume()
    takes = [(chunk.shot, chunk.take) for chunk in session.chunks()]
    assert receipt.state == "applied"
    assert takes == [(1, 0)] + [(1, 1)] * 4, "at the next chunk boundary"


def test_another_text_for_the_shot_that_was_to_begin_once_more(
    open_session: Opener, bundle: Model
) -> None:
    session = open_session(bundle, queue_chunks=1)
    two_shots(session)
    caption_set(bundle.captions, ["dddd"])
    receipt = session.prompt("dddd")
    session.resume()
    frames = list(session.stream())
    assert receipt.state == "applied"
    assert (frames[0].shot, frames[0].index, frames[0].caption) == (1, 21, "dddd")


def test_a_cut_comes_behind_the_shot_that_was_to_begin_once_more(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    two_shots(session)
    session.cut("ccc", now=True)
    session.resume()
    shots = [(chunk.shot, chunk.caption) for chunk in session.chunks()]
    assert shots[0] == (1, "bb")
    assert shots[-1] == (2, "ccc")


def test_shots_of_a_film_that_went_another_way_pick_their_context_anew(
    open_session: Opener, new_bundle: Callable[[], Model]
) -> None:
    """Of a replayed film that was left in its first shot, the frames that others saw are gone."""
    with new_bundle() as model:
        first = open_session(model, seed=3)
        first.cut("a", chunks=6)
        first.cut("bb", chunks=2)
        first.cut("ccc", chunks=2)
        frames = list(first.stream())
        made = first.directions()
        second = open_session(model, seed=3, queue_chunks=1)
        played = list(islice(second.replay(made), 12))
        assert [f.pixels.tobytes() for f in played] == [f.pixels.tobytes() for f in frames[:12]]
        second.cut("dddd", flush=True, chunks=1)
        played += second.stream()
        assert [f.caption for f in played[11::9]][:3] == ["a", "dddd", "bb"]
        same_film(second, model, played)


def test_an_undo_while_a_shot_picks_its_context(
    open_session: Opener, bundle: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it changes of the shot's request is not overwritten."""
    session = open_session(bundle, seed=3, queue_chunks=1)
    session.cut("a", chunks=2)
    session.cut("bb", chunks=4)
    frames = list(islice(session.stream(), 21 + 30))
    selector: Any = session._film.workers.selector
    select, asked = selector.select, []

    def select_and_undo(*arguments: Any) -> Any:
        found = select(*arguments)
        if not asked:
            asked.append(session.undo(frame=24))
        return found

    session.pause()
    session.undo(frame=40)
    monkeypatch.setattr(bundle.pipeline, "wind_back", lambda *_: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(selector, "select", select_and_undo)
    session.resume()
    frames[24:] = session.stream()
    assert asked
    assert [f.index for f in frames] == list(range(21 + 45))
    same_film(session, bundle, frames)


def test_a_restore_while_the_film_goes_back(
    open_session: Opener, bundle: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the snapshot remembers of the past is not lost."""
    session = open_session(bundle, seed=3)
    session.cut("a", chunks=2)
    list(session.stream())
    data, decoder = session.snapshot(), session._film.workers.decoder
    session.cut("bb", chunks=2)
    list(islice(session.stream(), 5))
    session.pause()
    wait_idle, restored = decoder.wait_idle, []

    def wait_and_restore() -> None:
        if session._film.timeline.wound_back and not restored:
            restored.append(session.restore(data))
        wait_idle()

    monkeypatch.setattr(decoder, "wait_idle", wait_and_restore)
    session.undo(chunks=1)
    until(lambda: bool(restored))
    films = []
    with Session(bundle, seed=3) as other:
        other.restore(data)
        for each in (session, other):
            each.resume()
            each.cut("ccc", chunks=1)
            films.append([frame.pixels.tobytes() for frame in each.stream()])
    assert films[0] == films[1]


def test_a_take_that_failed_leaves_the_one_before_it_in_the_past(
    open_session: Opener, bundle: Model
) -> None:
    session = open_session(bundle, queue_chunks=1)
    session.cut("a", chunks=2)
    session.cut("bb", chunks=2)
    frames = list(session.stream())
    pipeline: Any = bundle.pipeline  # type: ignore[attr-defined]
    pipeline.fail_at = (1, 0)
    session.retake()
    with pytest.raises(ShotStreamError):
        list(session.stream())
    pipeline.fail_at = None
    session.cut("ccc", chunks=1)
    frames += session.stream()
    begun = [call for call in pipeline.calls if call[0] == "begin"]
    assert set(begun[-1][2]) == {0, 1}, "both shots are remembered"
    same_film(session, bundle, frames)


@pytest.mark.parametrize("applied", [False, True])
def test_a_change_of_caption_that_is_just_due_is_not_lost(applied: bool) -> None:
    """A branch, a snapshot or an undo may come when a shot that is made again is right there."""
    change = CaptionChange(9, "bb")
    request = ShotRequest(text="a", prompts=(change,), given=15)
    times = ShotTimes(shot=0, take=0, prompt="a")
    run = ShotRun(request=request, shot=0, caption="a", times=times, frames=9)
    if applied:
        run.change_caption("bb")
    assert run.request_replay(15).prompts == (change,)


def test_a_shot_that_goes_on_a_little_keeps_its_length_when_it_is_prompted(
    open_session: Opener, bundle: Model
) -> None:
    """The one behind it was begun before, and sees frames of it that were not read yet."""
    first = open_session(bundle, seed=3, queue_chunks=2)
    first.cut("a", chunks=3)
    first.cut("bb", chunks=2)
    frames = list(islice(first.stream(), 21))
    until(lambda: first.state.pending == () and first.state.unread_frames == 12 + 9)
    data = first.snapshot()
    second = open_session(bundle, seed=3)
    second.pause()
    second.restore(data)
    second.prompt("dddd")
    second.resume()
    rest = list(second.stream())
    assert [f.shot for f in rest[11:13]] == [0, 1]
    assert rest[12].caption == "bb"
    same_film(second, bundle, frames + rest)


def made_again_in_part(session: Session, model: Model) -> list[Any]:
    """Read five shots, go back to the third, and stop when the first of them was made again."""
    for text in ("a", "bb", "ccc", "ee", "fff"):
        session.cut(text, chunks=1)
    frames = list(session.stream())
    session.pause()
    session.undo(shot=2)
    timeline, gate = session._film.timeline, model.pipeline.gate  # type: ignore[attr-defined]
    gate.clear()
    session.resume()
    until(lambda: timeline.denoising)
    session.pause()
    gate.set()
    until(lambda: timeline.in_flight == 0)
    assert [request.again for request in timeline.playlist.pending] == [True, True]
    return frames[:18]


def test_another_text_while_shots_before_are_made_again(
    open_session: Opener, bundle: Model
) -> None:
    """It is for the shot that goes on where the reader is; what was shown keeps its text."""
    session = open_session(bundle, seed=3)
    frames = made_again_in_part(session, bundle)
    caption_set(bundle.captions, ["dddd"])
    receipt = session.prompt("dddd")
    session.resume()
    frames += session.stream()
    assert receipt.state == "applied"
    assert [frame.caption for frame in frames[::9]] == ["a", "bb", "dddd"]
    same_film(session, bundle, frames)


def test_clear_keeps_shots_that_are_made_again(open_session: Opener, bundle: Model) -> None:
    session = open_session(bundle, seed=3)
    frames = made_again_in_part(session, bundle)
    session.cut("dddd")
    assert session.clear() == 1
    session.resume()
    frames += session.stream()
    assert [frame.caption for frame in frames[::9]] == ["a", "bb", "ccc"]
    same_film(session, bundle, frames)


def test_a_retake_stays_one_however_often_it_is_made_again(
    open_session: Opener, bundle: Model
) -> None:
    """First alone, then with the shots before it."""
    session = open_session(bundle, seed=3)
    session.cut("a", chunks=1)
    frames = list(session.stream())
    session.retake()
    frames += islice(session.stream(), 5)
    session.undo(frame=9)
    frames[9:] = session.stream()
    for text in ("bb", "ccc", "dddd"):
        session.cut(text, chunks=1)
    list(session.stream())
    session.undo(frame=12)
    frames[12:] = session.stream()
    assert [(frame.shot, frame.take) for frame in frames[::9]] == [(0, 0), (0, 1)]
    session.cut("bb", chunks=1)
    frames += session.stream()
    assert frames[-1].shot == 1
    same_film(session, bundle, frames)


def test_what_number_a_cut_gets_while_a_retake_is_made_again(
    open_session: Opener, bundle: Model
) -> None:
    session = open_session(bundle)
    session.cut("a", chunks=1)
    list(session.stream())
    session.retake()
    list(islice(session.stream(), 5))
    session.pause()
    session.undo(frame=9)
    gone_back(session)
    for now in (False, True):
        assert session._film.director.upcoming_shot(now=now) == 1
