"""The stream that decoding has on a device, beside the one that makes latents.

The two meet at events: decoding waits for the latents that it reads, and where nothing is to
compete with it, the other stream waits for what it has queued.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from .streams import Event, Streams


class DecodeStream:
    """An urgent stream, used by the decode thread; ``mark`` and ``hold_caller`` are for others.

    Args:
        streams: of the device.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._stream = streams.stream(urgent=True)
        self._decoded, self._complete = streams.event(), streams.event()

    def use(self) -> AbstractContextManager[Any]:
        """Send this thread's work to the stream inside the ``with`` block."""
        return self._streams.use(self._stream)

    def mark(self) -> Event:
        """Return an event that marks what the calling thread's stream has been given so far."""
        ready = self._streams.event()
        ready.record(self._streams.current())
        return ready

    def take(self, latents: Tensor, ready: Event) -> None:
        """Let what is queued from now on, which reads some latents, wait for ``ready``."""
        self._stream.wait_event(ready)
        self._streams.lend(latents, self._stream)

    def note_decoded(self) -> None:
        """Note that everything queued so far is what ``hold_caller`` waits for."""
        self._decoded.record(self._stream)

    def hold_caller(self) -> None:
        """Let the calling thread's stream wait, on the device, for what was noted last."""
        self._streams.current().wait_event(self._decoded)

    def finish(self) -> None:
        """Wait until everything queued on the stream is done."""
        self._complete.record(self._stream)
        self._complete.synchronize()
