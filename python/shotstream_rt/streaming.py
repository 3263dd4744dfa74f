"""Frames and chunks as they are finished: the reading half of a session."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

from .generator import Generator
from .reader import FrameReader
from .types import Chunk, Frame


class FrameStream:
    """What a reader may do with a session; attributes are set by the session."""

    _reader: FrameReader
    _generator: Generator

    def chunks(self, *, follow: bool = False, timeout_s: float | None = None) -> Iterator[Chunk]:
        """Yield finished chunks; see ``stream``."""
        while True:
            chunk = self._reader.next_chunk(self._generator, follow=follow, timeout_s=timeout_s)
            if chunk is None:
                return
            yield chunk

    def stream(self, *, follow: bool = False, timeout_s: float | None = None) -> Iterator[Frame]:
        """Yield frames in order.

        Ends when everything asked for has been delivered; another call after another ``cut``
        goes on from there. Frames not read yet are kept when the loop is left.

        Args:
            follow: wait for further cuts instead of ending.
            timeout_s: longest wait for a frame.

        Raises:
            FrameTimeoutError: no frame came in time.
            SessionClosedError: the session is closed.
            ShotStreamError: computing failed; the cause is attached.
        """
        while True:
            frame = self._reader.next_frame(self._generator, follow=follow, timeout_s=timeout_s)
            if frame is None:
                return
            yield frame

    async def astream(
        self, *, follow: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[Frame]:
        """Yield frames like ``stream``, without blocking the event loop."""
        gone = threading.Event()
        try:
            while True:
                frame = await asyncio.to_thread(
                    self._reader.next_frame, self._generator,
                    follow=follow, timeout_s=timeout_s, given_up=gone.is_set,
                )  # fmt: skip
                if frame is None:
                    return
                yield frame
        finally:
            gone.set()
