"""How much film a device makes, and so how many films play on it in real time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from ..errors import ShotStreamError
from ..loading.load_model import Model
from ..session import Session
from .fragments import FragmentEncoder

_log = logging.getLogger("shotstream_rt.serve")

_KEPT = 64
"""Chunks that the rate is about, the newest ones."""
_USED = 0.9
"""Share of the device's rate that films may need: chunks of a shot take unequal times."""
_MEASURED_CHUNKS = 4
_MEASURED_S = 20.0
_CAPTION = "Wide shot: a red cat walks right on a beach."


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


def measure(model: Model, throughput: Throughput, at_once: int, threads: int | None) -> None:
    """Make a little of some films as fast as it goes, and note how long it took.

    Each is read and encoded on a thread of its own, as films are that play. A device that makes
    hardly anything in the time for it, or has no room, is not measured, and plays one film.

    Args:
        model: makes them.
        throughput: is told.
        at_once: films that compute at one time.
        threads: CPU threads of a film.
    """
    try:
        with ExitStack() as opened, ThreadPoolExecutor(at_once) as readers:
            films = [
                opened.enter_context(model.session(seed=seed, at_end="extend", threads=threads))
                for seed in range(at_once)
            ]
            made = list(readers.map(_make_some, films))
    except ShotStreamError as error:
        _log.warning("how fast this device is was not measured: %s", error)
        return
    begun_s, ended_s, frames = zip(*made, strict=True)
    throughput.note(sum(frames), max(ended_s) - min(begun_s))


def _make_some(session: Session) -> tuple[float, float, int]:
    """Return when the first chunk of a film was there, when the last one, and frames between."""
    height, width = session.size
    encoder = FragmentEncoder(height=height, width=width, frame_rate_hz=session.frame_rate_hz)
    end_s, begun_s, frames = time.monotonic() + _MEASURED_S, 0.0, 0
    session.cut(_CAPTION)
    for number in range(1 + _MEASURED_CHUNKS):
        left_s = max(0.1, end_s - time.monotonic())
        chunk = next(session.chunks(timeout_s=left_s))
        for pixels in chunk.pixels:
            encoder.encode(pixels, key=False)
        frames += len(chunk.pixels) if number else 0
        begun_s = begun_s or time.monotonic()
    encoder.close()
    return begun_s, time.monotonic(), frames
