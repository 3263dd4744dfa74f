"""Device streams and events, as far as decoding and copying frames to the host need them.

Protocols with the methods of torch's own classes, so that the order of work can be tested without a
GPU. Made once per session by ``film/workers.py``; a CPU has none, and their users are given
``None``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor


class Event(Protocol):
    """A point in the work queued on a stream."""

    def record(self, stream: Any) -> None:
        """Mark all that was queued on ``stream`` so far."""
        ...

    def synchronize(self) -> None:
        """Let the calling thread wait until what was marked is done."""
        ...


class Stream(Protocol):
    """A queue of device work that runs in order."""

    def wait_event(self, event: Any) -> None:
        """Let what is queued from now on wait, on the device, for what ``event`` marks."""
        ...


class Streams(Protocol):
    """A device's streams, events and page-locked memory."""

    def stream(self, *, urgent: bool = False) -> Stream:
        """Make a stream; the device runs the work of an urgent one first."""
        ...

    def current(self) -> Stream:
        """Return the stream that this thread's work goes to."""
        ...

    def use(self, stream: Stream) -> AbstractContextManager[Any]:
        """Send this thread's work to ``stream`` inside the ``with`` block."""
        ...

    def event(self) -> Event:
        """Make an event."""
        ...

    def host_buffer(self, shape: tuple[int, ...]) -> Tensor:
        """Return page-locked uint8 memory, which the device can copy to while the host goes on."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy on the current stream and return at once."""
        ...

    def lend(self, tensor: Tensor, stream: Stream) -> None:
        """Do not reuse the memory of ``tensor`` before ``stream`` has done what is queued now."""
        ...


class CudaStreams:
    """The ``Streams`` of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stream(self, *, urgent: bool = False) -> torch.cuda.Stream:
        """See ``Streams``."""
        return torch.cuda.Stream(self._device, priority=-1 if urgent else 0)

    def current(self) -> torch.cuda.Stream:
        """See ``Streams``."""
        return torch.cuda.current_stream(self._device)

    def use(self, stream: Any) -> AbstractContextManager[Any]:
        """See ``Streams``."""
        return torch.cuda.stream(stream)

    def event(self) -> torch.cuda.Event:
        """See ``Streams``; the host sleeps while it waits."""
        return torch.cuda.Event(blocking=True)

    def host_buffer(self, shape: tuple[int, ...]) -> Tensor:
        """See ``Streams``."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """See ``Streams``."""
        target.copy_(source, non_blocking=True)

    def lend(self, tensor: Tensor, stream: Any) -> None:
        """See ``Streams``."""
        tensor.record_stream(stream)


def streams_of(device: torch.device) -> Streams | None:
    """Return the streams of a device, None for a CPU, where calls return when work is done."""
    return CudaStreams(device) if device.type == "cuda" else None
