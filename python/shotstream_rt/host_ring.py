"""Pictures from a device to the host: a bounded ring of page-locked buffers.

A copy runs on a stream of its own, behind the work that made the pictures and beside whatever the
device does next. What the consumer gets is the buffer itself, and the buffer is filled again only
when the consumer has let go of every view of it. A consumer that keeps its frames gets copies once
the ring is used up, so it can keep as many as it likes and nobody waits for it.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .streams import Streams


class HostRing:
    """The ring; one thread fetches, any thread lets go.

    Args:
        streams: of the device that pictures come from.
        shape: of the largest chunk, ``[P, H, W, 3]``.
        slots: buffers that consumers may hold at a time, at least 1; one more is the ring's own.
    """

    def __init__(self, streams: Streams, shape: tuple[int, int, int, int], *, slots: int) -> None:
        self._streams = streams
        self._stream = streams.stream()
        self._made, self._copied = streams.event(), streams.event()
        self._buffers = [streams.host_buffer(shape) for _ in range(slots + 1)]
        self._own = slots
        self._free = deque(range(slots))  # whose ends are safe to use from any thread
        self._overflows = 0

    @property
    def free(self) -> int:
        """Buffers that no consumer holds."""
        return len(self._free)

    @property
    def overflows(self) -> int:
        """Chunks that were copied once more because consumers held every buffer."""
        return self._overflows

    def fetch(self, pixels: Tensor) -> NDArray[np.uint8]:
        """Return a chunk's pictures on the host.

        Args:
            pixels: uint8 ``[P, H, W, 3]`` on the device, made on the current stream; not longer
                than the ring's buffers.

        Cost: waits for the copy; the device does not.
        """
        streams = self._streams
        try:
            slot = self._free.popleft()
        except IndexError:
            slot = self._own
        buffer = self._buffers[slot][: len(pixels)]
        self._made.record(streams.current())
        self._stream.wait_event(self._made)
        with streams.use(self._stream):
            streams.copy(buffer, pixels)
        streams.lend(pixels, self._stream)
        self._copied.record(self._stream)
        self._copied.synchronize()
        if slot == self._own:
            self._overflows += 1
            return np.array(buffer.numpy())
        # Views of an array refer to it, so it lives as long as the last frame of the chunk.
        lease: NDArray[np.uint8] = buffer.numpy()
        weakref.finalize(lease, self._free.append, slot).atexit = False
        return lease
