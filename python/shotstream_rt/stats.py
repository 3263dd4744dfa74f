"""Times and counts of a session, kept in bounded memory.

Written by the generator and decode threads, read by anyone through ``Session.stats``.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KEPT_SHOTS = 256
_KEPT_TIMES = 1024


@dataclass(slots=True, kw_only=True)
class ShotTimes:
    """Clock of one shot; host times in nanoseconds, 0 while unknown."""

    shot: int
    take: int
    prompt: str
    due_ns: int
    decided_ns: int
    first_frame_ns: int = 0
    second_chunk_ns: int = 0
    last_frame_ns: int = 0
    frames: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        ``first_frame_ms``: from when the shot was due (asked for, or its turn came) to its first
        frame being ready. ``cut_ms``: the same from the chunk boundary at which the session acted
        on it: context, captions, first chunk, decoding. ``begin_s`` and ``end_s``: host clock at
        that boundary and at the last frame.
        """
        return {
            "shot": self.shot,
            "take": self.take,
            "prompt": self.prompt,
            "frames": self.frames,
            "first_frame_ms": _ms(self.due_ns, self.first_frame_ns),
            "cut_ms": _ms(self.decided_ns, self.first_frame_ns),
            "begin_s": round(self.decided_ns / 1e9, 6),
            "end_s": round(self.last_frame_ns / 1e9, 6),
            "first_frame_before_second_chunk": self.first_frame_ns != 0
            and (self.second_chunk_ns == 0 or self.first_frame_ns < self.second_chunk_ns),
        }


class SessionStats:
    """Collects; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shots: deque[ShotTimes] = deque(maxlen=_KEPT_SHOTS)
        self._times: dict[str, deque[float]] = {}
        self._begun_ns = 0
        self._last_ns = 0
        self._frames = 0

    def shot_begins(self, times: ShotTimes) -> None:
        """Open the clock of a shot."""
        with self._lock:
            self._shots.append(times)
            self._begun_ns = self._begun_ns or times.decided_ns

    def chunk_begins(self, chunk: int) -> None:
        """Note that the running shot's chunk is about to be computed."""
        with self._lock:
            if chunk == 1 and self._shots:
                self._shots[-1].second_chunk_ns = time.perf_counter_ns()

    def chunk_ready(self, times: ShotTimes, frames: int) -> None:
        """Note that a chunk's frames are ready for the consumer."""
        now = time.perf_counter_ns()
        with self._lock:
            times.first_frame_ns = times.first_frame_ns or now
            times.last_frame_ns = self._last_ns = now
            times.frames += frames
            self._frames += frames

    def add(self, name: str, begun_ns: int) -> None:
        """Note a duration that began at ``begun_ns`` and ends now, under a metric's stem."""
        elapsed = (time.perf_counter_ns() - begun_ns) / 1e6
        with self._lock:
            self._times.setdefault(name, deque(maxlen=_KEPT_TIMES)).append(elapsed)

    @property
    def frames(self) -> int:
        """Frames made ready so far."""
        return self._frames

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: shots, frames, rate, and p50 / max of each duration."""
        with self._lock:
            data: dict[str, Any] = {
                "frames": self._frames,
                "fps": _rate(self._frames, self._begun_ns, self._last_ns),
                "shots": [shot.to_dict() for shot in self._shots],
            }
            for name, values in sorted(self._times.items()):
                data[f"{name}_ms"] = {
                    "n": len(values),
                    "p50": round(statistics.median(values), 3),
                    "max": round(max(values), 3),
                }
        data["memory_bytes"] = resident_bytes()
        return data


def resident_bytes() -> int | None:
    """Return the resident memory of this process, or None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    import resource

    return pages * resource.getpagesize()


def _ms(begin_ns: int, end_ns: int) -> float | None:
    return round((end_ns - begin_ns) / 1e6, 3) if end_ns else None


def _rate(frames: int, begin_ns: int, end_ns: int) -> float | None:
    return round(frames * 1e9 / (end_ns - begin_ns), 2) if end_ns > begin_ns else None
