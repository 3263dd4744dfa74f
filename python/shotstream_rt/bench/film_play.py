"""Plays a session, takes every chunk at once, and notes rates and waits."""

from __future__ import annotations

import time
from collections.abc import Iterator

from shotstream_rt.session import Session
from shotstream_rt.story import Story
from shotstream_rt.types import Chunk

from .stopwatch import Stopwatch
from .timed import TimedPipeline

AHEAD = 3
"""Chunks that may be finished or in progress when the consumer sees one; a caption change needs a
shot that is still running."""


def play(session: Session, story: Story, watch: Stopwatch) -> None:
    """Play the story once and note rates, frame intervals and waits.

    Args:
        session: open, with nothing asked of it yet.
        story: what to play.
        watch: takes the samples.
    """
    begun = last = time.perf_counter_ns()
    frames = later_frames = first_at = 0
    session.story(story)
    for chunk in _chunks(session, watch):
        now = time.perf_counter_ns()
        count = len(chunk.pixels)
        if frames:
            later_frames += count
            watch.add("frame_interval_ms", (now - last) / 1e6)
        else:
            first_at = now
        for _ in range(count - 1):
            watch.add("frame_interval_ms", 0.0)  # frames of a chunk arrive together
        frames, last = frames + count, now
    watch.add("e2e_fps", frames * 1e9 / (last - begun))
    if later_frames:
        watch.add("steady_fps", later_frames * 1e9 / (last - first_at))


def steer(session: Session, timed: TimedPipeline, story: Story) -> list[float]:
    """Make one shot and change its caption while it runs.

    Args:
        session: open, with nothing running.
        timed: the session's pipeline.
        story: gives the shot, and the text of the change.

    Returns:
        Milliseconds from each change to the first frame made under it.
    """
    took_ms: list[float] = []
    asked: int | None = None
    changes, chunks = len(timed.applied), timed.config.shot.chunks
    session.cut(story.shots[0])
    for chunk in session.chunks():
        if asked is None and chunk.chunk < chunks - AHEAD:
            asked = time.perf_counter_ns()
            session.prompt(story.shots[len(took_ms) % len(story.shots)])
        elif (
            asked is not None
            and len(timed.applied) > changes
            and (chunk.shot, chunk.chunk) >= timed.applied[-1]
        ):
            took_ms.append((time.perf_counter_ns() - asked) / 1e6)
            asked, changes = None, len(timed.applied)
    return took_ms


def _chunks(session: Session, watch: Stopwatch) -> Iterator[Chunk]:
    """Yield the chunks that were asked for, noting how long the consumer waited for each."""
    chunks = session.chunks()
    while True:
        with watch.host_ms("queue_wait_ms"):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def drain(session: Session, watch: Stopwatch) -> None:
    """Take what is left, noting only how long each chunk was waited for."""
    for _ in _chunks(session, watch):
        pass
