"""The film as it stands, as a file: the samples that were sent, kept and not encoded again.

An undo or a retake takes frames out of it. What is kept decodes without them, because wherever
frames do not follow each other the encoder was asked for a key frame.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice

from ..types import Frame
from .fragments import FRAGMENT_HEAD_BYTES, Head, Sample, fragment_head
from .from_server import KeptTake
from .kept_frames import KeptFrame, KeptFrames
from .problems import StoreError
from .samples import Samples, StoredSamples

_FRAMES_AT_ONCE = 64
_LENGTHS_KEPT = 512


_RECORD = struct.Struct("<IQQIIII?")
"""What stands before a sample: a checksum of all that follows it, the frame's number in the live
stream and in the film, shot, take, chunk, the sample's size, whether it is a key frame."""
_LARGEST_SAMPLE = 64 * 2**20
_COPIED_AT_ONCE = 8 * 2**20


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

    Before each sample stands which frame it is of, so that the samples alone tell the film.

    Args:
        samples: keeps them.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._frames, self._replaced = KeptFrames(), KeptFrames()
        self._gap = False
        self.full = False
        self._last: list[tuple[int, KeptFrame]] = []
        self._added = 0
        self._lengths = {0: samples.length}
        self._changed = threading.Condition()

    @classmethod
    def reopen(cls, samples: StoredSamples, index: int) -> Recording:
        """Return the recording of a film that another process made.

        Args:
            samples: what there is of it.
            index: number in the film of the frame that comes next.

        Raises:
            StoreError: what the store has is damaged.
        """
        self, end = cls(samples), samples.length
        reader, at = _Reader(samples), 0
        runs = deque[list[tuple[int, KeptFrame]]](maxlen=2)  # each from a key frame on
        while at < end:
            head = reader.read(at, min(_RECORD.size, end - at))
            if len(head) < _RECORD.size:
                raise StoreError("recording: ends within a frame")
            checksum, number, at_index, shot, take, chunk, size, key = _RECORD.unpack(head)
            at += _RECORD.size
            if size > min(_LARGEST_SAMPLE, end - at):
                raise StoreError(f"recording: damaged at byte {at}")
            if zlib.crc32(reader.read(at, size), zlib.crc32(head[4:])) != checksum:
                raise StoreError(f"recording: damaged at byte {at}")
            self._take_out(shot, take, at_index)
            self._frames.append(kept := KeptFrame(at_index, shot, take, chunk, at, size, key))
            if runs and number != runs[-1][-1][0] + 1:
                runs.clear()  # those before are of the film that this one branched from
            if key or not runs:
                runs.append([])
            runs[-1].append((number, kept))
            at += size
        self._last = [shown for run in runs for shown in run]
        self._undo(index)  # what was undone, and nothing has come in its place
        self._gap = True
        return self

    def last_shown(self, frames: int) -> list[tuple[int, Sample]]:
        """Return what another process recorded last, also what was undone.

        Args:
            frames: how many frames the live stream has shown. A film that branched off and was not
                played has the past of another one, and has shown none.

        Returns:
            Number in the live stream, and the sample, of each frame from the last key frame but
            one on.
        """
        return [
            (number, Sample(self._samples.read(kept.offset, kept.size), kept.key))
            for number, kept in self._last
            if number < frames
        ]

    def branch(self, samples: StoredSamples | None = None) -> Recording:
        """Return a recording that has the same past.

        Args:
            samples: where to copy it to; default: it is shared.

        Raises:
            StoreError: it cannot be copied.
        """
        frames, replaced, source = self._frames.copy(), self._replaced.copy(), self._samples
        if samples is None:
            other = Recording(source)
            other._frames, other._replaced = frames, replaced
        else:
            other = Recording(samples)
            for kept in merge(frames, replaced, key=lambda kept: kept.index):
                head = kept.offset - _RECORD.size
                offset = samples.append(source.read(head, _RECORD.size + kept.size))
                if offset is None:
                    break
                other._take_out(kept.shot, kept.take, kept.index)
                other._frames.append(replace(kept, offset=offset + _RECORD.size))
                if samples.waiting >= _COPIED_AT_ONCE:
                    samples.flush()
            other._lengths = {0: samples.length}
        other._gap = True
        return other

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def added(self) -> int:
        """How many times ``add`` was called."""
        return self._added

    def length_after(self, count: int, timeout_s: float) -> int | None:
        """Return how many bytes of samples there were after ``count`` calls of ``add``.

        Args:
            count: as many calls, none but the last 512 of which may have come after.
            timeout_s: longest wait for them in seconds.

        Returns:
            None if they did not come, or too many have come since.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._added >= count, timeout_s)
            return self._lengths.get(count)

    def place(self, frame: Frame) -> Change:
        """Take out what a new frame replaces, and tell how it fits in.

        The film has every place once: what lay at the frame's place or behind it was undone, and
        another take of its shot was replaced. Where a take was undone as a whole, the one that it
        had replaced counts again.
        """
        dropped = self._take_out(frame.shot, frame.take, frame.index)
        last = self._frames.last
        same_take = last is not None and (last.shot, last.take) == (frame.shot, frame.take)
        follows = same_take and not dropped and not self._gap
        return Change(follows, not same_take, dropped)

    def _take_out(self, shot: int, take: int, index: int) -> bool:
        """Take out what a frame of this place replaces, and return whether that changed the film.

        Args:
            shot: of the frame.
            take: likewise.
            index: likewise.
        """
        changed = self._undo(index)
        while (last := self._frames.last) is not None and last.shot > shot:
            self._frames.pop()
            changed = True
        if last is not None and last.shot == shot and last.take != take:
            _move(self._frames, self._replaced, last.shot, last.take)
            changed = True
        return changed

    def _undo(self, index: int) -> bool:
        """Take out the frames from one on, and return whether there were any."""
        changed = False
        for frames in (self._frames, self._replaced):
            while (last := frames.last) is not None and last.index >= index:
                frames.pop()
                changed = True
        while (last := self._replaced.last) is not None:
            shown = self._frames.last
            if shown is not None and shown.index > last.index:
                break
            _move(self._replaced, self._frames, last.shot, last.take)
            changed = True
        return changed

    def add(self, frame: Frame, sample: Sample, number: int) -> None:
        """Append a frame for which ``place`` was called.

        A full recording keeps what it has and takes no more; so does one whose disk is full.

        Args:
            frame: which frame it is.
            sample: the frame, encoded.
            number: of the frame in the live stream.
        """
        if not self.full and (sample.key or not self._gap):
            self._keep(frame, sample, number)
        with self._changed:
            self._added += 1
            self._lengths[self._added] = self._samples.length
            self._lengths.pop(self._added - _LENGTHS_KEPT, None)
            self._changed.notify_all()

    def _keep(self, frame: Frame, sample: Sample, number: int) -> None:
        size, key = len(sample.data), sample.key
        values = (number, frame.index, frame.shot, frame.take, frame.chunk, size, key)
        said = _RECORD.pack(0, *values)[4:]
        checksum = zlib.crc32(sample.data, zlib.crc32(said))
        offset = self._samples.append(struct.pack("<I", checksum) + said + sample.data)
        if offset is None:
            self.full = self._gap = True
            return
        self._gap = False
        self._frames.append(
            KeptFrame(
                frame.index, frame.shot, frame.take, frame.chunk, offset + _RECORD.size, size, key
            )
        )

    def takes(self) -> tuple[KeptTake, ...]:
        """Return the takes of the film, in order."""
        return tuple(
            KeptTake(shot=run.shot, take=run.take, index=run.index, frames=run.frames)
            for run in self._frames.runs
        )

    def file(self, head: Head) -> tuple[int, Iterator[bytes]]:
        """Return size in bytes and contents of an MP4 file with the film as it stands now.

        Args:
            head: the beginning of the file.
        """
        frames = self._frames.copy()
        size = len(head.data) + sum(FRAGMENT_HEAD_BYTES + kept.size for kept in frames)
        return size, self._contents(head, frames)

    def _contents(self, head: Head, frames: KeptFrames) -> Iterator[bytes]:
        yield head.data
        numbered = enumerate(frames)
        while some := list(islice(numbered, _FRAMES_AT_ONCE)):
            parts = []
            for number, kept in some:
                parts.append(fragment_head(head, number, number, kept.size, key=kept.key))
                parts.append(self._samples.read(kept.offset, kept.size))
            yield b"".join(parts)


class _Reader:
    """Reads samples from front to back, many at once.

    Args:
        samples: the samples.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._begin, self._data = 0, b""

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at a place that is behind the last one."""
        at = offset - self._begin
        if at + size > len(self._data):
            more = min(max(size, 2**20), self._samples.length - offset)
            self._begin, self._data, at = offset, self._samples.read(offset, more), 0
        return self._data[at : at + size]


def _move(source: KeptFrames, target: KeptFrames, shot: int, take: int) -> None:
    """Move the frames of the last take from one list to another.

    Args:
        source: ends with this take.
        target: has none of the frames behind it.
        shot: of the take.
        take: its number.
    """
    moved = []
    while (last := source.last) is not None and (last.shot, last.take) == (shot, take):
        moved.append(last)
        source.pop()
    for kept in reversed(moved):
        target.append(kept)
