"""How much film a device makes, and so how many films play on it in real time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import repeat

from ..errors import FrameTimeoutError, ShotStreamError
from ..loading.load_model import Model
from ..loading.progress import Cancellation
from ..session import Session
from ..types import Chunk
from .fragments import FragmentEncoder

_log = logging.getLogger("shotstream_rt.serve")

_KEPT = 64
"""Chunks that the rate is about, the newest ones."""
_USED = 0.75
"""Share of the device's rate that films may need: chunks of a shot take unequal times, and on a CPU
what shows and sends the frames takes its part of the cores."""
_MEASURED_CHUNKS = 4
_MEASURED_S = 20.0
_LOOK_S = 0.1
"""Seconds after which a measurement that was given up ends."""
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


def measure(
    model: Model,
    throughput: Throughput,
    at_once: int,
    threads: int | None,
    loading: Cancellation,
) -> None:
    """Make a little of some films as fast as it goes, and note how long it took.

    Each is read and encoded on a thread of its own, as films are that play. A device that makes
    hardly anything in the time for it, or has no room, is not measured, and plays one film.

    Args:
        model: makes them.
        throughput: is told.
        at_once: films that compute at one time, 1 or more.
        threads: CPU threads of a film; None for torch's own choice.
        loading: that of the model, which this is the end of; it may be cancelled meanwhile.

    Raises:
        LoadingCancelled: it was; the films are closed, and nothing is noted.
    """
    try:
        with ExitStack() as opened, ThreadPoolExecutor(at_once) as readers:
            films = []
            for seed in range(at_once):
                loading.check()
                film = model.session(seed=seed, at_end="extend", threads=threads)
                films.append(opened.enter_context(film))
            made = list(readers.map(_make_some, films, repeat(loading)))
    except ShotStreamError as error:
        _log.warning("how fast this device is was not measured: %s", error)
        return
    begun_s, ended_s, frames = zip(*made, strict=True)
    throughput.note(sum(frames), max(ended_s) - min(begun_s))


def _make_some(session: Session, loading: Cancellation) -> tuple[float, float, int]:
    """Return when the first chunk of a film was there, when the last one, and frames between."""
    height, width = session.size
    encoder = FragmentEncoder(height=height, width=width, frame_rate_hz=session.frame_rate_hz)
    end_s, begun_s, frames = time.monotonic() + _MEASURED_S, 0.0, 0
    with closing(encoder):
        session.cut(_CAPTION)
        for number in range(1 + _MEASURED_CHUNKS):
            chunk = _next_chunk(session, end_s, loading)
            for pixels in chunk.pixels:
                encoder.encode(pixels, key=False)
            frames += len(chunk.pixels) if number else 0
            begun_s = begun_s or time.monotonic()
    return begun_s, time.monotonic(), frames


def _next_chunk(session: Session, end_s: float, loading: Cancellation) -> Chunk:
    """Return the next chunk of a film; nobody waits for it in vain who has given the loading up.

    Raises:
        FrameTimeoutError: the time for it is over.
        LoadingCancelled: the loading was given up.
    """
    chunks = session.chunks(timeout_s=_LOOK_S)
    while True:
        loading.check()
        try:
            return next(chunks)
        except FrameTimeoutError:
            if time.monotonic() > end_s:
                raise FrameTimeoutError(
                    f"it does not make {1 + _MEASURED_CHUNKS} chunks in {_MEASURED_S:g} s"
                ) from None
