"""Looking at a film: what ``Session.state`` tells, and what a snapshot holds."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ..errors import SessionClosedError
from ..types import PendingShot, Place, SessionState
from .context import ContextSelector
from .directions import directions_of, pictures_of
from .places import next_place
from .playlist import caption_parts
from .shots import CaptionChange, ResumePoint, ShotRun
from .timeline import Timeline


def session_state(timeline: Timeline, frame_rate_hz: int) -> SessionState:
    """Return where everything is.

    Args:
        timeline: the film's.
        frame_rate_hz: frames per second, to tell how far making lags behind playing.
    """
    with timeline.lock:
        frames, run, failed = timeline.frames, timeline.playlist.running(), timeline.failed
        running = None
        if run is not None:
            running = Place(run.shot, run.request.take, *next_place(timeline))
        behind_s = 0.0
        if timeline.making is not None and timeline.steady_ns:
            played_s = (time.perf_counter_ns() - timeline.steady_ns) / 1e9
            behind_s = round(played_s - timeline.steady_frames / frame_rate_hz, 3)
        return SessionState(
            running=running,
            caption="" if run is None else run.caption,
            pending=tuple(
                PendingShot(
                    id=0 if request.receipt is None else request.receipt.id,
                    shot=number,
                    take=request.take,
                    text=request.text,
                    now=request.now,
                    encoded=timeline.captions.ready("".join(caption_parts(request, number))),
                )
                for number, request in timeline.playlist.upcoming()
            ),
            making=timeline.making is not None,
            waits_for_reader=timeline.capacity is not None
            and len(frames) >= timeline.capacity
            and timeline.has_work(),
            paused=timeline.paused,
            idle=timeline.idle(),
            queued_chunks=len(frames),
            unread_frames=frames.unread,
            dropped_chunks=frames.dropped,
            behind_s=behind_s,
            failed="" if failed is None else f"{type(failed).__name__}: {failed}",
            closed=timeline.stopping,
        )


def directions(timeline: Timeline) -> dict[str, Any]:
    """Return what made the frames that were read, and what was taken back, as JSON values."""
    with timeline.lock, timeline.frames.standstill() as index:
        runs = _read_runs(timeline)
        asked = directions_of(runs)
        seen = [run for run in runs if run.first_index < index]
        told = {
            "frames": index,
            "directions": [direction for direction in asked if direction["frame"] < index],
            "undone": [dict(entry) for entry in timeline.undone],
        }
    return {**told, "pictures": pictures_of(seen)}  # deflated without the lock


def _read_runs(timeline: Timeline) -> list[ShotRun]:
    """Return the shots begun; those that are being made again, as they were read before."""
    runs, index = list(timeline.runs), timeline.next_index
    if runs and runs[-1].frames < runs[-1].request.given:
        run = runs[-1]
        runs[-1] = ShotRun.made(run.request, run.shot, run.first_index, timeline.chunk_frames)
        index = run.first_index + run.request.given
    for shot, request in timeline.playlist.upcoming():
        if not request.again:
            break
        runs.append(ShotRun.made(request, shot, index, timeline.chunk_frames))
        index += request.given
    return runs


def resume_point(
    timeline: Timeline, selector: ContextSelector, *, within_chunk: bool = False
) -> ResumePoint:
    """Return where the reader is: what was delivered, the past shots, and what follows.

    Args:
        timeline: the film's.
        selector: holds the past shots.
        within_chunk: a chunk of which some frames were read is taken apart there; otherwise it
            counts as read.

    Raises:
        SessionClosedError: the film closed before it could tell.
    """
    with timeline.lock:
        while (point := _resume_point(timeline, selector, within_chunk)) is None:
            if timeline.stopping:
                raise SessionClosedError("the session closed while a snapshot was taken")
            timeline.changed.wait()
        return point


def _resume_point(
    timeline: Timeline, selector: ContextSelector, within_chunk: bool
) -> ResumePoint | None:
    """Return the point, None while a shot is ending or beginning and it is not known yet."""
    if timeline.wound_back:
        return None
    frames, playlist, runs = timeline.frames, timeline.playlist, timeline.runs
    index, reads = frames.place()
    if not within_chunk:
        index = frames.gone_index()
    first = 0
    while first < len(runs) and _is_delivered(timeline, runs[first], index):
        first += 1
    if first == len(runs):
        past = timeline.reload
        if past is None:
            if timeline.in_flight:
                return None
            selector.wanted = timeline.wanted_frames()
            ended = selector.ended_shot()
            past = selector.trimmed((*selector.past, *(() if ended is None else (ended,))))
        next_shot = playlist.next_shot
    else:
        if runs[first].past is None and runs[first] is playlist.run and runs[first].frames == 0:
            return None
        while first > 0 and runs[first].past is None:
            first -= 1
        past, next_shot = runs[first].past or (), runs[first].shot
    if timeline.whole and runs:
        first, past, next_shot = 0, (), runs[0].shot
    again = [
        run.request_replay(max(0, min(index - run.first_index, max(run.frames, run.request.given))))
        for run in runs[first:]
    ]
    if again and (change := _waiting_change(timeline)) is not None:
        again[-1] = replace(again[-1], prompts=(*again[-1].prompts, change))
    return ResumePoint(
        history=tuple(
            (run.shot, replace(run.request_replay(run.frames), frames=run.frames))
            for run in runs[:first]
        ),
        requests=(*again, *(replace(request, receipt=None) for request in playlist.pending)),
        past=past,
        next_shot=next_shot,
        next_index=index,
        reads=reads,
        pins=tuple(sorted(timeline.pins)),
        forgotten=tuple(sorted(timeline.forgotten)),
    )


def _waiting_change(timeline: Timeline) -> CaptionChange | None:
    """Return the new caption that is not applied yet, where it would be if it were encoded now."""
    prompt, run = timeline.prompt, timeline.playlist.run
    if prompt is None or run is None or run is not timeline.runs[-1]:
        return None
    chunk, index = next_place(timeline)
    if run.ended or not timeline.playlist.can_go_on(run, chunk):
        return None
    frame, given = index - run.first_index, run.request.given
    if frame < given:  # the shot is being made again, and changes behind what was delivered
        frame = run.chunk_start(run.chunk_at(given))
        if frame < given:
            frame = given if prompt.flush else run.chunk_start(run.chunk_at(given) + 1)
    return CaptionChange(frame, prompt.caption, min(prompt.reread, chunk))


def _is_delivered(timeline: Timeline, run: ShotRun, index: int) -> bool:
    """Tell whether all frames of a shot come before frame ``index``, and it will have no more."""
    if run.first_index + run.frames > index:
        return False
    return run is not timeline.playlist.run or not timeline.playlist.can_go_on(run)
