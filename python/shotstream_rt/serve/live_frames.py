"""The frames of the live stream that came to a client and were not read yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .fragments import FragmentDecoder
from .from_server import Welcome

_KEPT = 64


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """A frame of the live stream.

    Attributes:
        pixels: uint8 ``[H, W, 3]`` RGB, as it came through the codec.
        frame: its number in the stream, from 0; numbers are missing where this client was slow or
            away. They grow, except after a crash of the server, which may go back by a chunk.
    """

    pixels: NDArray[np.uint8]
    frame: int


class LiveFrames:
    """Decodes what comes and keeps the newest frames until they are read."""

    def __init__(self) -> None:
        self._last = -1
        self._rate_hz = 0
        self._decoder: FragmentDecoder | None = None
        self._frames: asyncio.Queue[LiveFrame | None] = asyncio.Queue()

    def begin(self, welcome: Welcome) -> None:
        """Take what a connection brings that has just begun; it may bring frames once more."""
        self._rate_hz, self._decoder = welcome.frame_rate_hz, None
        # After a crash the film goes on before what was seen of it last.
        self._last = min(self._last, welcome.frame - 1)

    def after(self) -> int | None:
        """Return the number of the last frame that came; None before the first."""
        return None if self._last < 0 else self._last

    def push(self, data: bytes) -> None:
        """Take a binary message: the head of a connection's file, then fragments of it."""
        if self._decoder is None:
            self._decoder = FragmentDecoder(data, self._rate_hz)
            return
        for number, pixels in self._decoder.decode(data):
            if number <= self._last:
                continue  # it came before the connection was lost
            self._last = number
            while self._frames.qsize() >= _KEPT:
                self._frames.get_nowait()
            self._frames.put_nowait(LiveFrame(pixels, number))

    def end(self) -> None:
        """Let readers come to an end behind what is there."""
        self._frames.put_nowait(None)

    async def read(self) -> LiveFrame | None:
        """Return the next frame when it has come; None from the end on."""
        frame = await self._frames.get()
        if frame is None:
            self._frames.put_nowait(None)  # for the next reader
        return frame
