"""Times and counts of a session, in bounded memory.

Written by the generator and decode threads, read from any thread through ``Session.stats``.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..types import Chunk
    from .chunk_log import ChunkLog, StageName

_KEPT_SHOTS = 256
_KEPT_TIMES = 1024


@dataclass(slots=True, kw_only=True)
class ShotTimes:
    """Times of one shot; host clock in nanoseconds, 0 while unknown.

    Attributes:
        shot: number in the film.
        take: which try of the shot.
        prompt: its text.
        due_ns: when it was asked for; for a queued shot, when the shot before it ended.
        decided_ns: chunk boundary at which it began.
        first_frame_ns: when its first chunk was ready for the consumer.
        second_chunk_ns: when computing its second chunk began.
        last_frame_ns: when its last chunk so far was ready.
        frames: frames made so far.
    """

    shot: int
    take: int
    prompt: str
    due_ns: int = 0
    decided_ns: int = 0
    first_frame_ns: int = 0
    second_chunk_ns: int = 0
    last_frame_ns: int = 0
    frames: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        ``first_frame_ms``: from when the shot was due to its first frame being ready. ``cut_ms``:
        the same from the chunk boundary at which it began, so context, captions, first chunk and
        decoding. ``begin_s`` and ``end_s``: host clock at that boundary and at the last frame.
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
    """Collects times and counts; every method may be called from any thread.

    Args:
        log: is told of every chunk; None for nobody.

    Attributes:
        log: as above.
        lock: guards all of this.
    """

    def __init__(self, log: ChunkLog | None = None) -> None:
        self.log = log
        # A signal handler may close the session while this thread holds it.
        self.lock = threading.RLock()
        self._shots: deque[ShotTimes] = deque(maxlen=_KEPT_SHOTS)
        self._times: dict[str, deque[float]] = {}
        self._begun_ns = 0
        self._last_ns = 0
        self._frames = 0
        self._shots_begun = 0
        self._counts: dict[str, int] = {}

    def shot_begins(self, times: ShotTimes) -> None:
        """Add a shot."""
        with self.lock:
            self._shots.append(times)
            self._shots_begun += 1
            self._begun_ns = self._begun_ns or times.decided_ns

    def chunk_ready(self, times: ShotTimes, chunk: Chunk) -> None:
        """Note that a chunk of a shot is ready for the consumer."""
        now, frames = time.perf_counter_ns(), len(chunk.pixels)
        with self.lock:
            times.first_frame_ns = times.first_frame_ns or now
            times.last_frame_ns = self._last_ns = now
            times.frames += frames
            self._frames += frames
        if self.log is not None:
            self.log.made(times, chunk)

    @contextmanager
    def span(self, stage: StageName, times: ShotTimes, chunk: int) -> Iterator[None]:
        """Note how long a stage takes, as ``add`` and ``ChunkLog.span`` do; arguments as there."""
        begun_ns = time.perf_counter_ns()
        with nullcontext() if self.log is None else self.log.span(stage, times, chunk):
            yield
        self.add(stage, begun_ns)

    def add(self, name: str, begun_ns: int) -> None:
        """Note a duration from ``begun_ns`` (host clock) to now; reported as ``<name>_ms``."""
        elapsed = (time.perf_counter_ns() - begun_ns) / 1e6
        with self.lock:
            self._times.setdefault(name, deque(maxlen=_KEPT_TIMES)).append(elapsed)
            self._counts[name] = self._counts.get(name, 0) + 1

    @property
    def frames(self) -> int:
        """Frames made ready so far."""
        return self._frames

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: shots, frames, rate, and p50 / max of each duration.

        Old entries are dropped: ``shots`` holds the last ones of ``shots_begun``, and of a
        duration's ``n`` only the last ``kept`` count.
        """
        with self.lock:
            data: dict[str, Any] = {
                "frames": self._frames,
                "fps": _rate(self._frames, self._begun_ns, self._last_ns),
                "shots": [shot.to_dict() for shot in self._shots],
                "shots_begun": self._shots_begun,
                "shots_dropped": self._shots_begun - len(self._shots),
            }
            for name, values in sorted(self._times.items()):
                data[f"{name}_ms"] = {
                    "n": self._counts[name],
                    "kept": len(values),
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
