"""How well the picture of a film goes on."""

from __future__ import annotations

from collections import deque

_WINDOW_S = 30
"""Seconds that the ratio is about."""


class PlayRatio:
    """Of the last half minute, the share in which the picture went on and waited for no frame.

    Args:
        frame_rate_hz: frames that are shown per second, 1 or more.
    """

    def __init__(self, frame_rate_hz: int) -> None:
        self._frame_rate_hz = frame_rate_hz
        self._frames: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, late_s: float) -> None:
        """Count a frame.

        Args:
            now_s: when it was shown, on the monotonic clock, in seconds.
            late_s: seconds for which the picture waited for it, 0 or more.
        """
        self._frames.append((now_s, late_s))
        while self._frames[0][0] < now_s - _WINDOW_S:
            self._frames.popleft()

    @property
    def value(self) -> float:
        """The share, from 0 to 1; 1 before the first frame."""
        if not self._frames:
            return 1.0
        played_s = len(self._frames) / self._frame_rate_hz
        return played_s / (played_s + sum(late_s for _, late_s in self._frames))
