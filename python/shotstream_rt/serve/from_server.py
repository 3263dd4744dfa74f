"""What the server says; see ``protocol.py``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from .message import VERSION, Message

ErrorCode = Literal[
    "malformed", "too_large", "unauthorized", "forbidden", "not_found", "not_allowed", "not_ready",
    "refused", "unsupported", "too_fast", "full", "unavailable", "failed",
]  # fmt: skip

RETRYABLE: frozenset[ErrorCode] = frozenset({"not_ready", "too_fast", "full", "unavailable"})
"""Errors that pass: the same, asked again a little later, may be done."""


Doing = Literal["waiting", "playing", "paused", "asleep"]
"""What a film does: ``waiting`` until a shot is asked for; ``asleep`` while nobody watches, or it
waits in line."""


class Loading(Message):
    """The model is being loaded; repeated while it is."""

    type: Literal["loading"] = "loading"
    model: str
    seconds: float


class Queue(Message):
    """The film waits in line, because others play as many as can; sent again while it does.

    Attributes:
        position: its place, from 1.
        length: films that wait.
    """

    type: Literal["queue"] = "queue"
    position: int
    length: int


class Welcome(Message):
    """The viewer has joined a film.

    Attributes:
        role: what its token allows.
        asks: types of asks that it may send.
        session: id of the film.
        viewer_token: token of a link that only watches; empty for who only watches.
        codec: RFC 6381 name of the picture's codec, for ``MediaSource``.
        suggestions: texts to begin with.
        begun: whether the film has a shot.
        frame: how many frames the live stream has shown. A viewer that comes back and has seen
            more, after a crash of the server, gets the frames from this number on again.
        images: reference pictures that a cut may have.
    """

    type: Literal["welcome"] = "welcome"
    version: int = VERSION
    role: Literal["director", "viewer"]
    asks: tuple[str, ...]
    session: str
    viewer_token: str
    model: str
    width: int
    height: int
    frame_rate_hz: int
    codec: str
    suggestions: tuple[str, ...]
    begun: bool
    frame: int = 0
    images: int = 0


class Take(Message):
    """A take of a shot began.

    Attributes:
        frame: number of its first frame in the live stream.
        index: number of its first frame in the film.
        caption: what it shows.
        picture: its first frame, small, as a ``data:`` address.
    """

    type: Literal["take"] = "take"
    shot: int
    take: int
    frame: int
    index: int
    caption: str
    picture: str


class Takes(Message):
    """The takes so far, sent to who joins; of a long film the last ones."""

    type: Literal["takes"] = "takes"
    takes: tuple[Take, ...]


class KeptTake(Message):
    """A take in the film as it stands: its first frame in the film, and how many it has."""

    shot: int
    take: int
    index: int
    frames: int


class Kept(Message):
    """Which takes the film consists of; sent when an undo or a retake changed that."""

    type: Literal["kept"] = "kept"
    takes: tuple[KeptTake, ...]


class Accepted(Message):
    """An ask was taken.

    Attributes:
        id: the ask's.
        frame: how many frames the live stream had then: the number of the next one.
        notes: words of its text that the model does not know, text that was cut off.
    """

    type: Literal["accepted"] = "accepted"
    id: str
    frame: int
    notes: tuple[str, ...] = ()


class Applied(Message):
    """The film shows what was asked for.

    Attributes:
        id: the ask's.
        frame: number in the live stream of the first frame that shows it.
        index: its number in the film.
        after_ms: milliseconds from the ask's arrival to sending that frame.
    """

    type: Literal["applied"] = "applied"
    id: str
    kind: str
    shot: int
    take: int
    chunk: int
    frame: int
    index: int
    after_ms: float


class Over(Message):
    """An ask will not be shown.

    Attributes:
        id: the ask's.
        state: ``superseded`` by a newer one; ``late``: its shot had ended; ``cancelled``;
            ``failed``; ``untold``: the server ended, or the film slept, before it was told. Where
            the film goes on, it is done all the same.
        message: why it failed.
    """

    type: Literal["over"] = "over"
    id: str
    state: Literal["superseded", "late", "cancelled", "failed", "untold"]
    message: str = ""


class Branched(Message):
    """A second film shares the past of this one."""

    type: Literal["branched"] = "branched"
    id: str
    session: str


class RememberedFrame(Message):
    """A frame that the next cut will see; ``picture`` is a ``data:`` address."""

    shot: int
    index: int
    pinned: bool
    picture: str


class Memory(Message):
    """What the next cut will see; sent when it changes."""

    type: Literal["memory"] = "memory"
    frames: tuple[RememberedFrame, ...]


class Stats(Message):
    """How the film is doing, once a second.

    Attributes:
        frames: frames sent so far.
        play_ratio: of the last half minute, the share in which the picture went on and did not wait
            for a frame that was due.
        state: what it does.
        viewers: who watches.
        recorded_frames: frames of the film as it stands, which a download has.
        recording_full: the recording has reached its limit and takes no more.
    """

    type: Literal["stats"] = "stats"
    frames: int
    play_ratio: float
    state: Doing
    viewers: int
    recorded_frames: int
    recording_full: bool


class Skipped(Message):
    """This viewer was too slow; the next binary message is a key frame after a gap."""

    type: Literal["skipped"] = "skipped"
    frames: int


class Failed(Message):
    """Making the film failed; the next cut lets it go on."""

    type: Literal["failed"] = "failed"
    kind: str
    message: str


EndReason = Literal["closed", "idle", "server"]


class Ended(Message):
    """The film ends here; the socket closes too.

    Attributes:
        message: why, for people.
        reason: for programs. ``closed``: somebody closed it, and it is gone. ``idle``: nobody
            watched. ``server``: the server ends. After the last two, a server with a store goes on
            with the film when it is asked for by its id.
    """

    type: Literal["ended"] = "ended"
    message: str
    reason: EndReason = "closed"


class Error(Message):
    """A message was not obeyed.

    Attributes:
        id: the ask's; null where it could not be read.
        code: the kind of mistake, for programs.
        message: for people: what was got, what was wanted.
        retryable: whether the same, asked again a little later, may be done.
    """

    type: Literal["error"] = "error"
    id: str | None = None
    code: ErrorCode
    message: str
    retryable: bool = Field(default_factory=lambda given: given["code"] in RETRYABLE)


FromServer = Annotated[
    Loading | Queue | Welcome | Take | Takes | Kept | Accepted | Applied | Over | Branched | Memory
    | Stats | Skipped | Failed | Ended | Error,
    Field(discriminator="type"),
]  # fmt: skip

FROM_SERVER: TypeAdapter[Any] = TypeAdapter(FromServer)
