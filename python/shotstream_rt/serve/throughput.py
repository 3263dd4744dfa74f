"""How much film a device makes, and so how many films play on it in real time."""

from __future__ import annotations

import threading
from collections import deque

_KEPT = 64
"""Chunks that the rate is about, the newest ones."""
_USED = 0.9
"""Share of the device's rate that films may need: chunks of a shot take unequal times."""


class Throughput:
    """Frames per second that a device makes with films waiting for it.

    Measured when the server starts, then with every chunk that was made while films waited for one
    another; while none waits the device could do more than it does, so nothing is learned.
    """

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def note(self, frames: int, seconds: float) -> None:
        """Add a measurement.

        Args:
            frames: how many were made.
            seconds: the time it took.
        """
        with self._lock:
            self._chunks.append((frames, seconds))

    @property
    def frames_per_s(self) -> float | None:
        """The rate; None before anything was measured."""
        with self._lock:
            chunks = tuple(self._chunks)
        seconds = sum(seconds for _, seconds in chunks)
        return sum(frames for frames, _ in chunks) / seconds if seconds else None

    def films(self, frame_rate_hz: float) -> int:
        """Return how many films can play at once, at least 1.

        Args:
            frame_rate_hz: frames that each of them shows in a second.
        """
        rate = self.frames_per_s
        return 1 if rate is None else max(1, int(_USED * rate / frame_rate_hz))
