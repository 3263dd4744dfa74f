"""Finished chunks on their way to the reader: a bounded queue.

The decode thread puts chunks in; frames or whole chunks come out. What comes out is *offered*
first and leaves only when it is accepted, by one ``del`` of a dictionary entry right before it is
handed over. Nothing can interrupt a reader between the two, so a cancelled task, a timeout or
Ctrl-C loses no frame, and of two readers one gets a frame and the other gets the next.

Waiting readers (``reading.py``) leave a function that wakes them, so one queue serves threads and
event loops, and nobody waits while holding a lock.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..errors import SessionClosedError, ShotStreamError
from ..nvtx import annotate
from ..types import Chunk, Frame

QueuePolicy = Literal["block", "drop_oldest", "latest"]
QUEUE_POLICIES: tuple[QueuePolicy, ...] = ("block", "drop_oldest", "latest")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """A frame or a chunk that may be handed over.

    Attributes:
        ticket: delete it from the queue's ``tickets`` to accept.
        item: the frame or the chunk.
        whole: whether it is a chunk.
        opens: whether it is a chunk, or the first frame of one.
        end: how many frames of the open chunk are read when it is accepted.
    """

    ticket: int
    item: Any
    whole: bool
    opens: bool
    end: int


class _Failure:
    """Stands in the queue where making frames failed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


@dataclass(slots=True, eq=False)
class _OpenChunk:
    """The chunk at the front, of which frames may have been read."""

    chunk: Chunk
    size: int
    read: int = 0
    frames: list[Frame] | None = None


class FrameQueue:
    """Finished chunks on their way out.

    The lock may be entered again by the thread that holds it, because a signal handler that runs
    in between may close the session; each change below is complete, or repeatable, at any line.

    Args:
        capacity: chunks that may wait.
        policy: what happens when they all wait, see ``Session``.
        frame_rate_hz: frames per second, for the presentation times.

    Attributes:
        tickets: of the offer that can be accepted.
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
        self._waiting: deque[Chunk | _Failure] = deque()
        self._open: _OpenChunk | None = None
        self._read_index = self._gone_index = self._reads = 0
        self._numbers = itertools.count()
        self._offered: Offer | None = None
        self._revoked = -1
        self.closed = False
        self.tickets: dict[int, None] = {}
        self.wakers: dict[object, Callable[[], object]] = {}
        self.dropped = 0
        self.failed: BaseException | None = None

    def check(self) -> None:
        """Check that the session is open and of this process; raises as ``offer``."""
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
            self._tidy()
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
        """Add a finished chunk and return those that the policy drops for it.

        Never waits: under ``block`` the generator makes a chunk only when there is room for it.
        """
        dropped: list[Chunk] = []
        with annotate("queue.put"), self.lock:
            if self.closed:
                return dropped
            if self._policy != "block" and len(self) >= self._capacity:
                dropped = self._make_room()
            self._waiting.append(chunk)
        self.wake()
        return dropped

    def wake(self) -> None:
        """Wake every waiting reader."""
        while self.wakers:
            # Another thread may take the last one; a reader may be awake already, or its loop gone.
            with suppress(KeyError, RuntimeError):
                self.wakers.popitem()[1]()

    def fail(self, error: BaseException) -> None:
        """Let the reader have the chunks that are ready, then raise ``error`` there."""
        with self.lock:
            self.failed = error
            self._waiting.append(_Failure(error))
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
            self._read_index = self._gone_index = next_index

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
            return self._gone_index

    # For readers.

    def offer(self, whole: bool) -> Offer | None:
        """Offer the next frame, or what is left of the next chunk; None if there is none now.

        Raises:
            SessionClosedError: the session is closed.
            ShotStreamError: making frames failed here; the cause is attached.
        """
        self.check()
        with self.lock:
            self._tidy()
            if self._offered is not None:
                if self._offered.whole == whole:
                    return self._offered
                self._revoke()
            front = self._open or self._open_next()
            if front is None:
                return None
            chunk, end = front.chunk, front.size if whole else front.read + 1
            if whole:
                item: Any = rest_of(chunk, front.read, self._frame_rate_hz)
            else:
                front.frames = front.frames or split(chunk, self._frame_rate_hz)
                item = front.frames[front.read]
            ticket = next(self._numbers)
            # An offer whose ticket is missing counts as accepted, so the ticket comes first.
            self.tickets[ticket] = None
            self._offered = Offer(
                ticket=ticket, item=item, whole=whole, opens=whole or end == 1, end=end
            )
            return self._offered

    # Under the lock.

    def _tidy(self) -> None:
        """Finish what a reader began: it accepted an offer, or was interrupted while opening."""
        front, waiting, offered = self._open, self._waiting, self._offered
        if front is not None and waiting and waiting[0] is front.chunk:
            waiting.popleft()
        if offered is None or offered.ticket in self.tickets:
            return
        if front is not None and offered.ticket != self._revoked:
            chunk = front.chunk
            self._reads += offered.end - front.read
            front.read = offered.end
            self._read_index = chunk.index + front.read
            # A chunk that was dropped meanwhile has overtaken this one.
            self._gone_index = max(self._gone_index, chunk.index + front.size)
            if front.read >= front.size:
                self._open = None
        self._offered = None

    def _open_next(self) -> _OpenChunk | None:
        """Open the next chunk; raise what is due instead of one."""
        entry = self._waiting[0] if self._waiting else None
        if isinstance(entry, Chunk):
            self._open = _OpenChunk(entry, len(entry.pixels))
            self._waiting.popleft()
            return self._open
        if entry is not None or self.failed is not None:
            self._raise_failure(entry)
        return None

    def _raise_failure(self, entry: _Failure | None) -> None:
        """Raise a failure that the reader has come to, or else the one that lasts."""
        if entry is not None:
            self._waiting.popleft()
        error = self.failed if entry is None else entry.error
        if error is not None:
            _raise(error)

    def _make_room(self) -> list[Chunk]:
        """Drop the oldest chunks until there is room for one."""
        chunks = [entry for entry in self._waiting if isinstance(entry, Chunk)]
        dropped = chunks[: len(chunks) - self._capacity + 1]
        gone = set(map(id, dropped))  # comparing chunks would compare their pixels
        self._waiting = deque(entry for entry in self._waiting if id(entry) not in gone)
        self.dropped += len(dropped)
        newest = dropped[-1]
        self._gone_index = newest.index + len(newest.pixels)
        return dropped

    def _revoke(self) -> None:
        """Take the current offer back; it can no longer be accepted."""
        offered = self._offered
        if offered is None:
            return
        self._revoked = offered.ticket
        if offered.ticket not in self.tickets:  # it was accepted just before
            self._revoked = -1
        self.tickets.pop(offered.ticket, None)
        self._tidy()


def _raise(error: BaseException) -> None:
    if isinstance(error, ShotStreamError):
        raise type(error)(*error.args) from error
    raise ShotStreamError(f"computing failed: {type(error).__name__}: {error}") from error


def split(chunk: Chunk, frame_rate_hz: int) -> list[Frame]:
    """Return a chunk's frames on the host, read-only; views of its memory if that is there."""
    on_host = isinstance(chunk.pixels, np.ndarray)
    pixels = chunk.pixels.view() if on_host else chunk.pixels.cpu().numpy()
    pixels.flags.writeable = False
    return [
        Frame(
            pixels=picture, index=index, shot=chunk.shot, chunk=chunk.chunk,
            pts_s=index / frame_rate_hz, take=chunk.take, caption=chunk.caption,
            made_s=chunk.made_s,
        )
        for index, picture in enumerate(pixels, chunk.index)
    ]  # fmt: skip


def rest_of(chunk: Chunk, read: int, frame_rate_hz: int) -> Chunk:
    """Return a chunk without its first ``read`` frames, of the same kind, without a copy.

    Args:
        chunk: its pixels are ``[P, H, W, 3]`` uint8, an array or a tensor.
        read: frames to leave out, below ``P``.
        frame_rate_hz: of the film, to stamp what is left.
    """
    if read == 0:
        return chunk
    index = chunk.index + read
    return Chunk(
        pixels=chunk.pixels[read:],
        index=index,
        shot=chunk.shot,
        chunk=chunk.chunk,
        pts_s=index / frame_rate_hz,
        take=chunk.take,
        caption=chunk.caption,
        made_s=chunk.made_s,
    )


def as_ordinary(pixels: torch.Tensor) -> torch.Tensor:
    """Return a copy that callers may write to and differentiate through.

    Tensors made in inference mode, as a session's threads make them, allow neither.
    """
    with torch.inference_mode(False):
        return pixels.clone()
