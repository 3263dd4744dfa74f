"""The reading side of a session: the bounded queue of finished chunks, and waiting for them.

The decode thread puts chunks in, one reader takes frames or chunks out, the generator is told of
each chunk taken. Waits end when a frame comes, when nothing more can come, or on a failure.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

from ._native import FrameQueue
from .errors import FrameTimeoutError, SessionClosedError, ShotStreamError
from .nvtx import annotate
from .shots import Delivery
from .types import FRAME_RATE_HZ, Chunk, Frame

_log = logging.getLogger("shotstream_rt.reader")

QueuePolicy = Literal["block", "drop_oldest", "latest"]
QUEUE_POLICIES: tuple[QueuePolicy, ...] = ("block", "drop_oldest", "latest")

# A wait comes back this often to see whether anything is still to come.
_WAIT_S = 0.02


class Source(Protocol):
    """What the reader needs of the generator."""

    def idle(self) -> bool:
        """Tell whether nothing more will come unless something is asked for."""
        ...

    def take(self, delivery: Delivery) -> bool:
        """Note that a chunk was taken; tells whether it is still valid."""
        ...


class FrameReader:
    """Finished chunks on their way to one reader.

    Args:
        capacity: chunks that may wait.
        policy: what happens when they all wait, see ``Session``.
    """

    def __init__(self, *, capacity: int, policy: QueuePolicy) -> None:
        self._queue = FrameQueue(capacity, policy)
        self._rest: deque[Frame] = deque()
        self._error: BaseException | None = None
        self._closed = False

    @property
    def dropped(self) -> int:
        """Chunks dropped by the queue's policy."""
        return self._queue.dropped

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, delivery: Delivery) -> None:
        """Hand over a finished chunk; dropped without a word when the session is closing."""
        try:
            with annotate("queue.put"):
                self._queue.put(delivery)
        except SessionClosedError:
            _log.debug("a chunk was dropped: the session is closing")

    def fail(self, error: BaseException) -> None:
        """End the stream with ``error`` after the chunks that are ready."""
        self._error = self._error or error
        self._queue.close()

    def close(self) -> None:
        """Drop everything; every later read raises ``SessionClosedError``."""
        self._closed = True
        self._queue.close()
        self.clear()

    def clear(self) -> None:
        """Drop frames and chunks not read yet."""
        self._rest.clear()
        self._queue.clear()

    def check(self) -> None:
        """Raise what makes asking for more pointless.

        Raises:
            SessionClosedError: the session is closed.
            ShotStreamError: computing failed.
        """
        self._check_open()
        self._raise_failure()

    def next_frame(
        self,
        source: Source,
        *,
        follow: bool,
        timeout_s: float | None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> Frame | None:
        """Return the next frame, None when nothing more will come.

        Args:
            source: makes the chunks.
            follow: wait although nothing is asked for.
            timeout_s: longest wait.
            given_up: the reader has gone; return soon.

        Raises:
            FrameTimeoutError: no frame came in time.
            SessionClosedError: the session is closed.
            ShotStreamError: computing failed; the cause is attached.
        """
        self._check_open()
        if not self._rest:
            chunk = self._take(source, follow, timeout_s, given_up)
            if chunk is None:
                return None
            self._rest.extend(split(chunk))
        return self._rest.popleft()

    def next_chunk(self, source: Source, *, follow: bool, timeout_s: float | None) -> Chunk | None:
        """Return the next chunk, or what is left of one already begun; see ``next_frame``."""
        self._check_open()
        if self._rest:
            chunk = join(list(self._rest))
            self._rest.clear()
            return chunk
        return self._take(source, follow, timeout_s, lambda: False)

    def _take(
        self,
        source: Source,
        follow: bool,
        timeout_s: float | None,
        given_up: Callable[[], bool],
    ) -> Chunk | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with annotate("queue.wait"):
            while not given_up():
                self._check_open()
                # Asked before looking: what is idle now has everything it made in the queue.
                ends = source.idle() and not follow
                try:
                    delivery: Delivery = self._queue.get(0.0 if ends else _WAIT_S)
                except FrameTimeoutError:
                    self._raise_failure()
                    if ends:
                        return None
                    if deadline is not None and time.monotonic() >= deadline:
                        raise FrameTimeoutError(
                            f"no frame within {timeout_s} s; wait longer, or see that a shot is "
                            "queued"
                        ) from None
                except SessionClosedError:
                    self.check()
                    raise
                else:
                    if source.take(delivery):
                        return delivery.chunk
        return None

    def _raise_failure(self) -> None:
        error = self._error
        if error is None:
            return
        if isinstance(error, ShotStreamError):
            raise type(error)(*error.args) from error
        raise ShotStreamError(f"computing failed: {type(error).__name__}: {error}") from error

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosedError("the session is closed; open another one")


def split(chunk: Chunk) -> list[Frame]:
    """Return a chunk's frames on the host; they share its memory if it is there, read-only."""
    on_host = isinstance(chunk.pixels, np.ndarray)
    pixels = chunk.pixels.view() if on_host else chunk.pixels.cpu().numpy()
    pixels.flags.writeable = False
    return [
        Frame(
            pixels=pixels[offset],
            index=chunk.index + offset,
            shot=chunk.shot,
            chunk=chunk.chunk,
            pts_s=(chunk.index + offset) / FRAME_RATE_HZ,
        )
        for offset in range(len(pixels))
    ]


def join(frames: list[Frame]) -> Chunk:
    """Return consecutive frames of one chunk as a chunk, in new memory."""
    first = frames[0]
    return Chunk(
        pixels=np.stack([frame.pixels for frame in frames]),
        index=first.index,
        shot=first.shot,
        chunk=first.chunk,
        pts_s=first.pts_s,
    )
