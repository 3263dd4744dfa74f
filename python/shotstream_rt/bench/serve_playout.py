"""What a player shows of the frames that reach it: when it begins, and where it stands still.

A ``<video>`` begins once it holds a little (the start buffer), then shows a frame every interval. A
frame that is not there when it is due makes it stall; it goes on as soon as the frame comes, and
everything after is due that much later. So a stall also makes the buffer longer, and a stream that
comes at a steady rate soon plays without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LEAST_STALL_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Playout:
    """A player within a span of time.

    Attributes:
        watched_s: seconds of the span since it began to play.
        stalled_s: seconds of these in which its picture stood still for want of a frame.
        stalls: how many times it did.
    """

    watched_s: float
    stalled_s: float
    stalls: int

    @property
    def ratio(self) -> float:
        """The share of the time in which the picture went on; 0 if it never began."""
        return 1 - self.stalled_s / self.watched_s if self.watched_s > 0 else 0.0


def play_out(
    arrivals_s: Sequence[float], *, interval_s: float, buffer_frames: int, begin_s: float,
    end_s: float,
) -> Playout:  # fmt: skip
    """Play frames as they came.

    Args:
        arrivals_s: when each frame came, in order, on any clock. Of frames that were skipped
            nothing came: the player jumps over them.
        interval_s: seconds that a frame is shown.
        buffer_frames: frames that the player holds before it begins, at least 1.
        begin_s: begin of the span that is judged, on the same clock.
        end_s: its end; a picture that stands still until then stalls until then.
    """
    if len(arrivals_s) < buffer_frames:
        return Playout(watched_s=0.0, stalled_s=0.0, stalls=0)
    due_s = started_s = arrivals_s[buffer_frames - 1]
    begin_s = max(begin_s, started_s)
    stalled_s, stalls = 0.0, 0
    for arrival_s in (*arrivals_s, end_s):
        waited_s = min(arrival_s, end_s) - max(due_s, begin_s)
        if waited_s > _LEAST_STALL_S:
            stalled_s += waited_s
            stalls += 1
        due_s = max(due_s, arrival_s) + interval_s
    return Playout(watched_s=max(0.0, end_s - begin_s), stalled_s=stalled_s, stalls=stalls)
