"""Going back in a timeline: what was made or asked for behind a place is dropped there at once.

Every function is called under the timeline's lock. Caches, frames and decoder follow when the
generator comes to it (``way_back.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .directions import directions_of
from .shots import ShotRun
from .timeline import Timeline

_KEPT_UNDONE = 64
"""Times that the film went back of which is told what was undone; the last ones."""


def wind_back(
    timeline: Timeline, index: int, asked_by: str, *, ends: bool, keeps_later: bool
) -> None:
    """Go back to a frame that was delivered, or to the one that comes next.

    What was made behind it is dropped, and so is a new caption that was not applied. The generator
    brings caches and decoder there before its next turn.

    Args:
        timeline: the film's.
        index: number of the frame that comes next from then on.
        asked_by: what asks for it, for the directions.
        ends: whether the shot ends there; otherwise it goes on.
        keeps_later: whether later shots that were begun are to be made all the same.
    """
    runs = timeline.runs
    dropped: list[ShotRun] = []
    while runs and (runs[-1].first_index > index or (ends and runs[-1].first_index == index)):
        dropped.insert(0, runs.pop())
    run = runs[-1] if runs else None
    _note_undone(timeline, index, asked_by, dropped)
    timeline.frames.clear(index)
    timeline.drop_prompt("superseded")
    _drop_runs(timeline, dropped, keeps_later)
    made_more = timeline.making is not None or index != timeline.next_index
    if dropped or made_more or timeline.failed is not None:
        timeline.revive()
        if run is not None:
            run.wind_back(index - run.first_index)
            run.ended = run.failed = False
        _go_on_at(timeline, index)
        timeline.playlist.forget_context()
        timeline.pins = {frame for frame in timeline.pins if frame < index}
        timeline.forgotten &= {run.shot for run in runs}
    if run is not None and ends:
        run.ended = True
    timeline.wish()
    timeline.changed.notify_all()


def count_as_made(timeline: Timeline) -> None:
    """Take shots that are being made again up to where the reader is for made.

    Args:
        timeline: the film's.
    """
    runs, playlist, first = timeline.runs, timeline.playlist, True
    if runs and runs[-1].frames < runs[-1].request.given:
        run, first = runs[-1], False
        made = ShotRun.made(run.request, run.shot, run.first_index, timeline.chunk_frames)
        run.prompts, run.frames, run.memory = made.prompts, run.request.given, None
        _go_on_at(timeline, run.first_index + run.frames)
    while playlist.makes_again:
        (shot, request), past = playlist.upcoming(1)[0], timeline.reload
        playlist.pending.popleft()
        run = ShotRun.made(request, shot, timeline.next_index, timeline.chunk_frames)
        run.past, first = past if first else None, False
        runs.append(run)
        _go_on_at(timeline, run.first_index + run.frames)


def replay(timeline: Timeline) -> None:
    """Make the last shot begun once more, with as many before it as that takes.

    Args:
        timeline: the film's.
    """
    first = 0 if timeline.whole else len(timeline.runs) - 1
    while first > 0 and timeline.runs[first].past is None:
        first -= 1
    again, timeline.runs = timeline.runs[first:], timeline.runs[:first]
    requests = [
        replace(
            run.request_replay(run.frames),
            again=True,
            receipt=run.waiting_receipt(),
        )
        for run in again
    ]
    playlist = timeline.playlist
    playlist.reset([*requests, *playlist.pending], next_shot=again[0].shot)
    timeline.next_index = again[0].first_index
    timeline.reload, timeline.recalls = again[0].past or (), True


def _go_on_at(timeline: Timeline, index: int) -> None:
    """Let the generator go on with the last shot begun, or what comes behind it, at a frame."""
    runs = timeline.runs
    timeline.epoch += 1
    timeline.playlist.wind_back(runs[-1] if runs else None, runs[-2] if len(runs) > 1 else None)
    timeline.next_index, timeline.wound_back = index, True
    timeline.reload, timeline.steady_ns = None, 0


def _drop_runs(timeline: Timeline, dropped: Sequence[ShotRun], keeps_later: bool) -> None:
    """Queue shots that were begun once more, or tell that they will not be shown."""
    again = [
        replace(run.request_fresh(), receipt=run.waiting_receipt())
        for run in dropped
        if keeps_later and not run.request.looped
    ]
    for run in dropped:
        if not keeps_later and run.waiting_receipt() is not None:
            timeline.events.drop(run.request.receipt, "superseded", run.caption)
    for request in reversed(again):
        timeline.playlist.pending.appendleft(request)


def _note_undone(timeline: Timeline, index: int, asked_by: str, dropped: Sequence[ShotRun]) -> None:
    """Keep what is dropped for the directions."""
    kept = timeline.runs[-1:]
    gone = directions_of(kept, starts=False) + directions_of(dropped, starts=False)
    gone = [one for one in gone if one["frame"] > index or one["kind"] == "prompt"]
    made = timeline.next_index - index
    if made > 0 or dropped:
        timeline.undone.append(
            {
                "by": asked_by,
                "frame": index,
                "frames": made,
                "directions": [one for one in gone if one["frame"] >= index],
            }
        )
        del timeline.undone[:-_KEPT_UNDONE]
