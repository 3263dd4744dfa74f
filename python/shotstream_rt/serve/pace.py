"""When the frames of a film are due, and so how urgent its next chunk is."""

from __future__ import annotations

import threading
import time

from .scheduler import Scheduler

_SLACK_S = 0.1
"""How late a frame may be before the clock that frames are due by is moved."""


class Pace:
    """The clock of one film. The scheduler asks it on any thread; its player moves it.

    Args:
        scheduler: gives the film turns at the device.
        frame_rate_hz: frames that are shown per second, 1 or more.

    Attributes:
        turn: what the film's session is to ask before each chunk.
    """

    def __init__(self, scheduler: Scheduler, frame_rate_hz: int) -> None:
        self.turn = scheduler.turn(self.due_s, frame_rate_hz=frame_rate_hz)
        self._interval_s = 1 / frame_rate_hz
        self._asked_s, self._due_s = time.monotonic(), 0.0

    def restart(self) -> None:
        """Let the next frame be due as soon as it is there, for somebody waits: a film wakes."""
        self._due_s = 0.0
        self.hurry()

    def hurry(self) -> None:
        """Note that somebody waits for the film to go on."""
        self.ask(time.monotonic())
        self.turn.hurry()

    def ask(self, now_s: float) -> None:
        """Note that the film was asked to go on; one that waited for that is due then.

        Args:
            now_s: when, on the monotonic clock, in seconds.
        """
        self._asked_s = now_s

    def due_s(self) -> float:
        """Return when the next frame that is read is due, on the monotonic clock, in seconds."""
        return max(self._due_s, self._asked_s)

    def late_s(self, now_s: float) -> float:
        """Return the seconds by which the next frame is late, 0 or more.

        Args:
            now_s: when it was there, on the monotonic clock, in seconds.
        """
        return max(0.0, now_s - self.due_s()) if self._due_s else 0.0

    def wait(self, now_s: float, ended: threading.Event) -> None:
        """Return when a frame is due; one that is late moves the clock, and is due at once.

        Args:
            now_s: when it was there, on the monotonic clock, in seconds.
            ended: ends the wait.
        """
        if now_s > self._due_s + _SLACK_S:
            self._due_s = now_s
        else:
            ended.wait(max(0.0, self._due_s - time.monotonic()))

    def advance(self) -> None:
        """Let the next frame be due, one interval later."""
        self._due_s += self._interval_s
