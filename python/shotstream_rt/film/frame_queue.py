"""Finished chunks on their way to the reader: a bounded queue.

The decode thread puts chunks in; frames or whole chunks come out. What comes out is *offered*
first and leaves only when it is accepted, by one ``del`` right before it is handed over. Python
looks for signals on calls and jumps back, and there is none between the two: a cancelled task, a
timeout or Ctrl-C loses no frame. Only one ``del`` of an offer succeeds: of two readers one gets a
frame and the other gets the next, and what the queue revokes nobody gets.

Waiting readers (``reading.py``) leave a function that wakes them, so one queue serves threads and
event loops, and nobody waits while holding a lock.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

import numpy as np
import torch

from ..errors import SessionClosedError, ShotStreamError
from ..nvtx import annotate
from ..types import Chunk, Frame

QueuePolicy = Literal["block", "drop_oldest", "latest"]
QUEUE_POLICIES: tuple[QueuePolicy, ...] = ("block", "drop_oldest", "latest")


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A frame or a chunk that may be handed over.

    Attributes:
        held: the frame or the chunk, until it is accepted or revoked: by ``del held[0]``, which is
            an ``IndexError`` for who comes second.
        whole: whether it is a chunk.
        opens: whether it is a chunk, or the first frame of one.
        end: how many frames of the open chunk are read when it is accepted.
    """

    held: list[Any]
    whole: bool
    opens: bool
    end: int


@dataclass(slots=True, eq=False)
class _OpenChunk:
    """The chunk at the front, of which frames may have been read.

    Attributes:
        chunk: it.
        size: how many frames it has.
        pixels: its frames; on the host from when the first of them is offered.
        read: how many of them were read.
    """

    chunk: Chunk
    size: int
    pixels: Any
    read: int = 0

    def frame(self, rate_hz: int) -> Offer:
        """Offer its next frame, on the host and read-only; a view of the chunk's memory there."""
        chunk, read, index = self.chunk, self.read, self.chunk.index + self.read
        if not isinstance(self.pixels, np.ndarray):
            self.pixels = self.pixels.cpu().numpy()
        pixels = self.pixels[read]
        pixels.flags.writeable = False
        frame = Frame(
            pixels=pixels, index=index, shot=chunk.shot, chunk=chunk.chunk, pts_s=index / rate_hz,
            take=chunk.take, caption=chunk.caption, made_s=chunk.made_s,
        )  # fmt: skip
        return Offer([frame], whole=False, opens=read == 0, end=read + 1)

    def rest(self, rate_hz: int) -> Offer:
        """Offer all that is left of it, of the same kind and without a copy."""
        rest, index = self.chunk, self.chunk.index + self.read
        if self.read:
            pixels = rest.pixels[self.read :]
            rest = replace(rest, pixels=pixels, index=index, pts_s=index / rate_hz)
        return Offer([rest], whole=True, opens=True, end=self.size)


class FrameQueue:
    """Finished chunks on their way out.

    The lock may be entered again by the thread that holds it, because a signal handler that runs
    in between may close the session; each change below is complete, or repeatable, when it comes.

    Args:
        capacity: chunks that may wait.
        policy: what happens when they all wait, see ``Session``. Under ``block``, a chunk is made
            only when there is room for it.
        frame_rate_hz: frames per second, for the presentation times.

    Attributes:
        wakers: of the readers that wait, by whoever waits; each is called once, when there may be
            something to read.
        dropped: chunks dropped by the queue's policy.
        failed: what stopped the making of frames; None while they are made.
        closed: whether every read raises ``SessionClosedError``.
        lock: guards all of this.
    """

    def __init__(self, *, capacity: int, policy: QueuePolicy, frame_rate_hz: int) -> None:
        self._pid = os.getpid()
        self._capacity = 1 if policy == "latest" else capacity
        self._policy = policy
        self._frame_rate_hz = frame_rate_hz
        self.lock = threading.RLock()
        self._waiting: deque[Chunk | BaseException] = deque()  # a failure where it happened
        self._open: _OpenChunk | None = None
        self._read_index = self._dropped_index = self._reads = 0
        self._offered: Offer | None = None
        self.closed = False
        self.wakers: dict[object, Callable[[], object]] = {}
        self.dropped = 0
        self.failed: BaseException | None = None

    def check(self) -> None:
        """Raise ``SessionClosedError`` if the session is closed, and as ``check_process``."""
        if self.closed or os.getpid() != self._pid:
            self.check_process()
            raise SessionClosedError("the session is closed; open another one")

    def check_process(self) -> None:
        """Check that this is the process that opened the session; takes no lock.

        Raises:
            ShotStreamError: this is a forked child of it, where locks may be held for ever.
        """
        if os.getpid() != self._pid:
            raise ShotStreamError(
                f"session: opened in process {self._pid} and used in {os.getpid()}, a fork of it, "
                "which has none of its threads; open the session in the child, and start children "
                "with multiprocessing's 'spawn'"
            )

    # For the session's threads.

    def __len__(self) -> int:
        with self.lock:
            return sum(isinstance(entry, Chunk) for entry in self._waiting)

    @property
    def unread(self) -> int:
        """Frames made and not read."""
        with self.lock:
            self._tidy()
            rest = 0 if self._open is None else self._open.size - self._open.read
            waiting = (entry for entry in self._waiting if isinstance(entry, Chunk))
            return rest + sum(len(chunk.pixels) for chunk in waiting)

    def put(self, chunk: Chunk) -> list[Chunk]:
        """Add a finished chunk, without waiting, and return those that the policy drops for it."""
        with annotate("queue.put"), self.lock:
            if self.closed:
                return []
            dropped = [] if self._policy == "block" else self._make_room()
            self._waiting.append(chunk)
        self.wake()
        return dropped

    def wake(self) -> None:
        """Wake every waiting reader."""
        while self.wakers:
            with suppress(KeyError, RuntimeError):  # woken meanwhile, or its loop is gone
                self.wakers.popitem()[1]()

    def fail(self, error: BaseException) -> None:
        """Let the reader have the chunks that are ready, then raise ``error`` there."""
        with self.lock:
            self.failed = error
            self._waiting.append(error)
        self.wake()

    def revive(self) -> None:
        """Take back ``fail``; a failure that the reader has not come to yet is still raised."""
        self.failed = None

    def close(self) -> None:
        """Drop everything; every later read raises ``SessionClosedError``."""
        self.closed = True
        self.clear()
        self.wake()

    def clear(self, next_index: int = 0) -> None:
        """Drop frames and chunks not read yet; the next frame will have this number."""
        with self.lock:
            self._revoke()
            self._waiting, self._open = deque(), None
            self._read_index = self._dropped_index = next_index

    @contextmanager
    def standstill(self) -> Iterator[int]:
        """Hold readers back; gives the number of the frame behind the last one read."""
        with self.lock:
            self._revoke()
            self._tidy()
            yield self._read_index

    def read_index(self) -> int:
        """Return the number of the frame behind the last one read."""
        with self.lock:
            self._tidy()
            return self._read_index

    def place(self) -> tuple[int, int]:
        """Return ``read_index`` and how many frames were read so far, which never goes back."""
        with self.lock:
            self._tidy()
            return self._read_index, self._reads

    def gone_index(self) -> int:
        """Return the number of the frame behind the last chunk that left the queue.

        A chunk leaves when it is dropped, or its first frame is read.
        """
        with self.lock:
            self._tidy()
            front = self._open
            begun = 0 if front is None or not front.read else front.chunk.index + front.size
            # A chunk that was dropped may have overtaken one that is read.
            return max(self._dropped_index, self._read_index, begun)

    # For readers.

    def offer(self, whole: bool) -> Offer | None:
        """Offer the next frame, or what is left of the next chunk; None if there is none now.

        Raises:
            ShotStreamError: making frames failed here, with the cause attached; or as ``check``.
        """
        self.check()
        with self.lock:
            self._tidy()
            if self._offered is not None and self._offered.whole != whole:
                self._revoke()
            if self._open is None:
                waiting = self._waiting
                entry = waiting[0] if waiting else self.failed
                if entry is None:
                    return None
                if isinstance(entry, BaseException):
                    self._raise_failure(entry)
                self._open = _OpenChunk(entry, len(entry.pixels), entry.pixels)
                del waiting[0]
            if self._offered is None:
                make = self._open.rest if whole else self._open.frame
                self._offered = make(self._frame_rate_hz)
            return self._offered

    # Under the lock. The first two change things without a call, so no signal comes halfway.

    def _tidy(self) -> None:
        """Finish what a reader began that accepted an offer."""
        front, offered = self._open, self._offered
        if offered is None or offered.held:
            return
        if front is not None:
            self._reads += offered.end - front.read
            front.read, self._read_index = offered.end, front.chunk.index + offered.end
            if front.read >= front.size:
                self._open = None
        self._offered = None

    def _revoke(self) -> None:
        """Take the current offer back, unless it was accepted just before."""
        try:
            if self._offered is not None:
                del self._offered.held[0]
                self._offered = None
        except IndexError:
            self._tidy()

    def _raise_failure(self, error: BaseException) -> NoReturn:
        """Raise a failure that the reader has come to, or the one that lasts."""
        if self._waiting:
            del self._waiting[0]
        if isinstance(error, ShotStreamError):
            raise type(error)(*error.args) from error
        raise ShotStreamError(f"computing failed: {type(error).__name__}: {error}") from error

    def _make_room(self) -> list[Chunk]:
        """Drop the oldest chunks until there is room for one, and return them."""
        chunks = [entry for entry in self._waiting if isinstance(entry, Chunk)]
        dropped = chunks[: max(0, len(chunks) - self._capacity + 1)]
        if not dropped:
            return dropped
        gone = set(map(id, dropped))  # comparing chunks would compare their pixels
        self._waiting = deque(entry for entry in self._waiting if id(entry) not in gone)
        self.dropped += len(dropped)
        newest = dropped[-1]
        self._dropped_index = newest.index + len(newest.pixels)
        return dropped


def as_ordinary(pixels: torch.Tensor) -> torch.Tensor:
    """Return a copy that callers may write to and differentiate through.

    Tensors made in inference mode, as a session's threads make them, allow neither.
    """
    with torch.inference_mode(False):
        return pixels.clone()
