"""Which frames a film consists of, and where their samples lie: a few bytes each.

A film of a day has more than a million frames, and a server has several films.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import starmap

_ROW = struct.Struct("<QIIIQI?")


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """A frame of the film: its place, and where its sample lies."""

    index: int
    shot: int
    take: int
    chunk: int
    offset: int
    size: int
    key: bool


@dataclass(frozen=True, slots=True)
class Run:
    """Frames of one take that follow each other: the number of the first one, and how many."""

    shot: int
    take: int
    index: int
    frames: int


class KeptFrames:
    """Frames in order, added and taken away at the end; every method from any thread."""

    def __init__(self) -> None:
        self._rows = bytearray()
        self._runs: list[Run] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows) // _ROW.size

    def __iter__(self) -> Iterator[KeptFrame]:
        """Return those that are there now, whatever comes or goes meanwhile."""
        return starmap(KeptFrame, _ROW.iter_unpack(bytes(self._rows)))

    @property
    def last(self) -> KeptFrame | None:
        """The last frame; None if there is none."""
        row = self._rows[-_ROW.size :]
        return KeptFrame(*_ROW.unpack(row)) if row else None

    @property
    def runs(self) -> tuple[Run, ...]:
        """The takes, in order."""
        with self._lock:
            return tuple(self._runs)

    def append(self, frame: KeptFrame) -> None:
        """Add a frame."""
        row = _ROW.pack(
            frame.index, frame.shot, frame.take, frame.chunk, frame.offset, frame.size, frame.key
        )
        with self._lock:
            self._rows += row
            last = self._runs[-1] if self._runs else None
            if last is not None and (last.shot, last.take) == (frame.shot, frame.take):
                self._runs[-1] = Run(last.shot, last.take, last.index, last.frames + 1)
            else:
                self._runs.append(Run(frame.shot, frame.take, frame.index, 1))

    def pop(self) -> None:
        """Take the last frame away."""
        with self._lock:
            del self._rows[-_ROW.size :]
            last = self._runs.pop()
            if last.frames > 1:
                self._runs.append(Run(last.shot, last.take, last.index, last.frames - 1))

    def copy(self) -> KeptFrames:
        """Return the same frames once more."""
        other = KeptFrames()
        with self._lock:
            other._rows, other._runs = self._rows[:], self._runs[:]
        return other
