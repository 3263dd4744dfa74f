"""The film as it stands, as a file: the samples that were sent, kept and not encoded again.

An undo or a retake takes frames out of it. What is kept decodes without them, because wherever
frames do not follow each other the encoder was asked for a key frame.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from ..types import Frame
from .fragments import FRAGMENT_HEAD_BYTES, Head, Sample, fragment_head
from .from_server import KeptTake
from .kept_frames import KeptFrame, KeptFrames

_FRAMES_AT_ONCE = 64


class SampleStore:
    """A temporary file that samples are appended to; branches of a film share it.

    Args:
        limit_bytes: largest size.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="shotstream-film-")  # noqa: SIM115
        self._limit, self._size = limit_bytes, 0
        self._lock = threading.Lock()

    def append(self, data: bytes) -> int | None:
        """Write a sample and return its place; None if there is no room for it."""
        with self._lock:
            if self._size + len(data) > self._limit:
                return None
            offset, self._size = self._size, self._size + len(data)
        os.pwrite(self._file.fileno(), data, offset)
        return offset

    def read(self, offset: int, size: int) -> bytes:
        """Return the sample at a place."""
        return os.pread(self._file.fileno(), size, offset)


@dataclass(frozen=True, slots=True)
class Change:
    """What adding a frame did to the film.

    Attributes:
        follows: the frame follows the last one of the film; if not, its sample has to be a key
            frame.
        begins_take: it is the first frame of a take.
        dropped: frames were taken out before it.
    """

    follows: bool
    begins_take: bool
    dropped: bool


class Recording:
    """The frames that the film consists of, in order.

    Args:
        head: of the file.
        store: keeps the samples.
    """

    def __init__(self, head: Head, store: SampleStore) -> None:
        self._head, self._store = head, store
        self._frames = KeptFrames()
        self._gap = False
        self.full = False

    def branch(self) -> Recording:
        """Return a recording that has the same past."""
        other = Recording(self._head, self._store)
        other._frames, other._gap = self._frames.copy(), True
        return other

    def __len__(self) -> int:
        return len(self._frames)

    def place(self, frame: Frame) -> Change:
        """Take out what a new frame replaces, and tell how it fits in.

        The film has every place once: what lay at the frame's place or behind it was undone, and
        another take of its shot was replaced.
        """
        frames, before = self._frames, len(self._frames)
        while (last := frames.last) is not None and _is_replaced(last, frame):
            frames.pop()
        same_take = last is not None and (last.shot, last.take) == (frame.shot, frame.take)
        dropped = len(frames) < before
        follows = same_take and not dropped and not self._gap
        return Change(follows, not same_take, dropped)

    def add(self, frame: Frame, sample: Sample) -> None:
        """Append a frame for which ``place`` was called.

        A full recording keeps what it has and takes no more; so does one whose disk is full.
        """
        if self.full or (self._gap and not sample.key):
            return
        try:
            offset = self._store.append(sample.data)
        except OSError:
            offset = None
        if offset is None:
            self.full = self._gap = True
            return
        self._gap = False
        self._frames.append(
            KeptFrame(
                frame.index, frame.shot, frame.take, frame.chunk, offset, len(sample.data),
                sample.key,
            )
        )  # fmt: skip

    def takes(self) -> tuple[KeptTake, ...]:
        """Return the takes of the film, in order."""
        return tuple(
            KeptTake(shot=run.shot, take=run.take, index=run.index, frames=run.frames)
            for run in self._frames.runs
        )

    def file(self) -> tuple[int, Iterator[bytes]]:
        """Return size in bytes and contents of an MP4 file with the film as it stands now."""
        frames = self._frames.copy()
        size = len(self._head.data) + sum(FRAGMENT_HEAD_BYTES + kept.size for kept in frames)
        return size, self._contents(frames)

    def _contents(self, frames: KeptFrames) -> Iterator[bytes]:
        yield self._head.data
        numbered = enumerate(frames)
        while some := list(islice(numbered, _FRAMES_AT_ONCE)):
            parts = []
            for number, kept in some:
                parts.append(fragment_head(self._head, number, number, kept.size, key=kept.key))
                parts.append(self._store.read(kept.offset, kept.size))
            yield b"".join(parts)


def _is_replaced(kept: KeptFrame, frame: Frame) -> bool:
    if kept.shot != frame.shot:
        return kept.shot > frame.shot
    return kept.take != frame.take or kept.index >= frame.index
