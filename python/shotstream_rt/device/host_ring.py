"""Frames from a device to the host, through a fixed number of page-locked buffers.

A copy runs on a stream of its own: after the work that made the frames, and at the same time as
what the device does next. The consumer gets the buffer itself, which is used again only when no
array refers to it any more. A consumer that keeps more chunks than there are buffers gets further
ones in ordinary memory, at the cost of one copy: it may keep any number, and nothing waits for it.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .streams import Streams

if TYPE_CHECKING:
    from numpy.typing import NDArray


class HostRing:
    """The buffers. One thread fetches; arrays may be released on any thread.

    Args:
        streams: of the device that frames come from.
        shape: of the largest chunk, ``[P, H, W, 3]``.
        slots: buffers that consumers may hold at a time, at least 1. One more stays here and
            receives the chunks that are then copied to ordinary memory.
    """

    def __init__(self, streams: Streams, shape: tuple[int, int, int, int], *, slots: int) -> None:
        self._streams = streams
        self._stream = streams.stream()
        self._ready, self._copied = streams.event(), streams.event()
        self._buffers = [streams.host_buffer(shape) for _ in range(slots + 1)]
        self._own = slots
        self._free = deque(range(slots))  # append and popleft are safe from any thread

    @property
    def free(self) -> int:
        """Buffers that no consumer holds."""
        return len(self._free)

    def fetch(self, pixels: Tensor) -> NDArray[np.uint8]:
        """Return a chunk's frames on the host; the calling thread waits for the copy.

        Args:
            pixels: uint8 ``[P, H, W, 3]`` on the device, made on the current stream; ``P`` at most
                that of the buffers.
        """
        streams = self._streams
        try:
            slot = self._free.popleft()
        except IndexError:
            slot = self._own
        buffer = self._buffers[slot][: len(pixels)]
        self._ready.record(streams.current())
        self._stream.wait_event(self._ready)
        with streams.use(self._stream):
            streams.copy(buffer, pixels)
        streams.lend(pixels, self._stream)
        self._copied.record(self._stream)
        self._copied.synchronize()
        if slot == self._own:
            return np.array(buffer.numpy())
        # Frames are views of this array and keep it alive; when the last one is gone, so is the
        # array, and its buffer is free again.
        lease: NDArray[np.uint8] = buffer.numpy()
        weakref.finalize(lease, self._free.append, slot).atexit = False
        return lease
