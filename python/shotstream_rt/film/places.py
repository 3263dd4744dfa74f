"""Where in the film something takes effect, as far as it is known; computed when asked for."""

from __future__ import annotations

from ..types import Place, Receipt
from .timeline import Timeline

_PLACED_SHOTS = 256
"""A cut that more shots wait before is not told its place, which is summed up over them."""


def expected_place(timeline: Timeline, receipt: Receipt) -> Place | None:
    """Return where a request that still waits takes effect if nothing else is asked for.

    Args:
        timeline: the film's.
        receipt: of the request.

    Returns:
        The place; None for one that waits behind very many shots, or is being decided.
    """
    with timeline.lock:
        prompt, run = timeline.prompt, timeline.playlist.run
        if prompt is not None and prompt.receipt is receipt and run is not None:
            chunk, index = next_place(timeline)
            if not timeline.playlist.can_go_on(run, chunk):  # it begins once more, as a new shot
                return Place(run.shot + 1, run.request.take, 0, index)
            return Place(run.shot, run.request.take, chunk, index)
        if run is not None and run.request.receipt is receipt:  # it is about to begin
            return Place(run.shot, run.request.take, 0, timeline.next_index)
        upcoming = timeline.playlist.upcoming(_PLACED_SHOTS)
        for position, (shot, request) in enumerate(upcoming):
            if request.receipt is receipt:
                return shot_place(timeline, position, shot, request.take)
    return None


def shot_place(timeline: Timeline, position: int, shot: int, take: int) -> Place:
    """Return where a queued shot begins if nothing else is asked for.

    Args:
        timeline: the film's; locked.
        position: of the shot among those that are queued.
        shot: its number.
        take: its take.
    """
    playlist, (chunk, index) = timeline.playlist, next_place(timeline)
    run, pending = playlist.run, playlist.upcoming(position + 1)
    if run is not None and not pending[0][1].now and not run.ended:
        index += _frames(timeline, chunk, playlist.length(run.request))
    for _, request in pending[:position]:
        index += request.frames or _frames(timeline, 0, playlist.length(request))
    return Place(shot, take, 0, index)


def next_place(timeline: Timeline) -> tuple[int, int]:
    """Return number and first frame of the running shot's next chunk that is not begun.

    Args:
        timeline: the film's; locked.
    """
    run = timeline.playlist.run
    if run is None:
        return 0, timeline.next_index
    if run is timeline.making and timeline.denoising:
        return run.next_chunk + 1, timeline.next_index + timeline.chunk_frames[
            run.next_chunk > 0
        ] - run.skip
    return run.next_chunk, timeline.next_index


def _frames(timeline: Timeline, first: int, end: int) -> int:
    """Return the frames of a shot's chunks ``first`` to ``end`` - 1."""
    if end <= first:
        return 0
    opening, later = timeline.chunk_frames
    return (later if first else opening) + (end - first - 1) * later
