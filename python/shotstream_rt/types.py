"""Values that cross the public boundary: frames, and what a session tells of itself."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_FRAME_RATE_HZ = 16
"""Frame rate of a model that does not name one: Wan2.1 is trained at 16 frames per second."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of the film.

    Attributes:
        pixels: uint8 ``[H, W, 3]`` RGB on the host, read-only.
        index: frame number in the film, from 0.
        shot: shot number, from 0.
        chunk: chunk number within the shot, from 0.
        pts_s: presentation time in seconds, ``index`` over the model's frame rate.
        take: take of the shot, from 0.
        caption: what the text encoder read for it.
        made_s: when it was made, ``time.perf_counter`` in seconds.
    """

    pixels: NDArray[np.uint8]
    index: int
    shot: int
    chunk: int
    pts_s: float
    take: int = 0
    caption: str = ""
    made_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """The frames of one chunk together.

    Attributes:
        pixels: uint8 ``[P, H, W, 3]`` RGB; a NumPy array on the host or a torch tensor on the
            device. Both speak DLPack, so a consumer takes them without a copy.
        index: number of the first frame in the film.
        shot: shot number, from 0.
        chunk: chunk number within the shot, from 0.
        pts_s: presentation time of the first frame in seconds.
        take: take of the shot, from 0.
        caption: what the text encoder read for it.
        made_s: when it was made, ``time.perf_counter`` in seconds.
    """

    pixels: Any
    index: int
    shot: int
    chunk: int
    pts_s: float
    take: int = 0
    caption: str = ""
    made_s: float = 0.0

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Return the pixels' DLPack capsule."""
        return self.pixels.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the DLPack device pair of the pixels."""
        device: tuple[int, int] = self.pixels.__dlpack_device__()
        return device


@dataclass(frozen=True, slots=True)
class Place:
    """A point in the film.

    Attributes:
        shot: shot number, from 0.
        take: take of the shot, from 0.
        chunk: chunk number within the shot, from 0.
        index: number of the chunk's first frame in the film.
    """

    shot: int
    take: int
    chunk: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryFrame:
    """A frame of a past shot that a later shot may see as context.

    Attributes:
        shot: number of its shot.
        index: its number in the film.
        pinned: whether every later shot sees it.
        picture: uint8 ``[H, W, 3]`` RGB; close to the frame that was shown, not the same bytes.
    """

    shot: int
    index: int
    pinned: bool
    picture: NDArray[np.uint8]


Choose = Callable[[tuple[MemoryFrame, ...], int, str], Iterable[MemoryFrame | int]]
"""Picks the context of a shot: called with every frame that is kept of past shots in their order,
how many frames a context has, and the shot's caption; returns some of the frames, or their numbers
in the film."""

RequestKind = Literal["cut", "prompt", "retake", "undo"]
RequestState = Literal["waiting", "applied", "superseded", "late", "cancelled", "failed"]

_request_ids = itertools.count(1)


Expected = Callable[["Receipt"], Place | None]
"""Tells where a request that waits takes effect at the earliest, as far as it is known."""


class Receipt(tuple[str, ...]):
    """What becomes of what was asked for; as a tuple, the notes on its text.

    Args:
        kind: what was asked for.
        notes: on its text.
        expected: tells the earliest place while it waits; None where nothing is known.

    Attributes:
        id: number of the request, unique in this process.
        kind: ``cut``, ``prompt``, ``retake`` or ``undo``.
        state: ``waiting``; ``applied``, the film shows it from ``place`` on; ``superseded`` by a
            newer request; ``late``, the shot it was for ended before; ``cancelled`` by the caller,
            a restore or the session's end; ``failed``.
        error: why it failed.
    """

    id: int
    kind: RequestKind
    state: RequestState
    error: BaseException | None
    _expected: Expected | None
    _place: Place | None
    _wakers: dict[object, Callable[[], None]]

    def __new__(
        cls, kind: RequestKind, notes: Iterable[str] = (), expected: Expected | None = None
    ) -> Receipt:
        """Make a new request's receipt."""
        receipt = super().__new__(cls, notes)
        receipt.id, receipt.kind, receipt.state = next(_request_ids), kind, "waiting"
        receipt.error = receipt._place = None
        receipt._expected, receipt._wakers = expected, {}
        return receipt

    @property
    def notes(self) -> tuple[str, ...]:
        """Words of the text that the model does not know, text that was cut off."""
        return tuple(self)

    @property
    def place(self) -> Place | None:
        """Where it takes effect.

        While ``waiting``, the earliest place as far as it is known now; None if it is not, as for a
        shot behind very many others. Once ``applied``, the place itself. None if it never is.
        """
        expected = self._expected
        place = None if expected is None else expected(self)
        # Decided meanwhile, it may have been looked for where the film had got to since.
        return self._place if self._expected is None else place

    def wait(self, timeout_s: float | None = None) -> RequestState:
        """Wait until it is decided what becomes of the request, and return the state then.

        Args:
            timeout_s: longest wait in seconds; then the state is still ``waiting``.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        key, gate = object(), threading.Lock()
        gate.acquire()
        self._wakers[key] = gate.release
        try:
            while self.state == "waiting":
                left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
                if left <= 0 or gate.acquire(timeout=left):
                    break
        finally:
            self._wakers.pop(key, None)
        return self.state

    def decide(
        self, state: RequestState, place: Place | None = None, error: BaseException | None = None
    ) -> bool:
        """Set what became of it, once, and tell whether this was the call; for the session.

        Args:
            state: what became of it.
            place: where it takes effect, if it does.
            error: why it failed, if it did.
        """
        if self.state != "waiting":
            return False
        self._place, self._expected = place, None
        self.error, self.state = error, state
        while self._wakers:
            self._wakers.popitem()[1]()
        return True

    def __repr__(self) -> str:
        return (
            f"Receipt({self.kind} {self.id}: {self.state}, place={self.place}, "
            f"notes={tuple(self)!r})"
        )

    def __reduce__(self) -> Any:
        return tuple, (tuple(self),)


EventKind = Literal[
    "shot_began", "prompt_applied", "undo_applied", "chunk_made", "chunk_dropped", "superseded",
    "late", "cancelled", "failed",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a session, as ``Session.on_event`` tells it.

    Attributes:
        kind: ``shot_began``; ``prompt_applied``; ``undo_applied``; ``chunk_made``: it waits for the
            reader; ``chunk_dropped``: the reader was too slow for the queue's policy;
            ``superseded``, ``late``, ``cancelled``: a request will not be shown; ``failed``: a shot
            or a request.
        place: where in the film; None for a request that has no place.
        caption: the caption it is about.
        request: ``Receipt.id`` of the request behind it, 0 if there is none.
        error: what failed.
        time_s: ``time.perf_counter`` in seconds.
        took_s: of ``chunk_made``, seconds from turning to the chunk (a shot's first one with its
            context) to its frames being ready; else 0.
    """

    kind: EventKind
    place: Place | None = None
    caption: str = ""
    request: int = 0
    error: BaseException | None = None
    time_s: float = 0.0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingShot:
    """A shot that was asked for and has not begun.

    Attributes:
        id: ``Receipt.id`` of the request, 0 if a snapshot asked for it.
        shot: number it will get if nothing is queued before it.
        take: take of the shot.
        text: its text.
        now: it interrupts the running shot.
        encoded: whether its caption is encoded.
    """

    id: int
    shot: int
    take: int
    text: str
    now: bool
    encoded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """Where a session is, all taken at one moment.

    Attributes:
        running: the place of the running shot's next chunk; None if no shot runs.
        caption: caption of the running shot, empty if none runs.
        pending: shots not begun, in playing order.
        making: whether a chunk is being made.
        waits_for_reader: whether making pauses because the queue is full.
        paused: whether ``pause`` holds it.
        idle: whether nothing more will come until another shot is queued.
        queued_chunks: finished chunks that the reader has not begun.
        unread_frames: frames made and not read.
        dropped_chunks: chunks that the queue's policy dropped.
        behind_s: seconds of film that are missing for playing at the model's frame rate since
            making last began after a pause (a full queue, nothing to do); negative: it is ahead.
        failed: what stopped the film, empty if it goes on.
        closed: whether the session is closed.
    """

    running: Place | None
    caption: str
    pending: tuple[PendingShot, ...]
    making: bool
    waits_for_reader: bool
    paused: bool
    idle: bool
    queued_chunks: int
    unread_frames: int
    dropped_chunks: int
    behind_s: float
    failed: str
    closed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the reader of a film is.

    Attributes:
        index: number in the film of the next frame.
        reads: frames that were read of the session so far, also those that were undone since.
        snapshot: goes on with that frame; see ``Session.snapshot``.
    """

    index: int
    reads: int
    snapshot: bytes
