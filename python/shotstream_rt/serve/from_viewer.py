"""What a viewer says; see ``protocol.py``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from .message import MOST, AskId, Message, Number, SessionId, Text


class Hello(Message):
    """First message of a socket.

    Attributes:
        token: one of the server's tokens, or one of a film.
        session: film to join; default: the one that was opened last.
        video: whether the picture is wanted, and not the messages alone.
        after: number of the last frame that the viewer has, where it comes back after a lost
            connection: what it has need not be sent again.
    """

    type: Literal["hello"]
    token: Annotated[str, Field(max_length=200)]
    session: SessionId | None = None
    video: bool = True
    after: Number | None = None


class Ask(Message):
    """Something to be done with the film; answered with ``accepted`` or ``error``.

    Attributes:
        id: chosen by the viewer, unique within the film. A repeated id is answered again and not
            done again, so that an ask may be repeated after a lost connection.
    """

    id: AskId


class Cut(Ask):
    """Begin a shot.

    Attributes:
        text: what it shows.
        now: end the running shot where the viewers are; else the shot waits for its turn.
        images: pictures that it sees as context, JPEG, PNG or WebP files in base64.
    """

    type: Literal["cut"]
    text: Text
    now: bool = True
    images: tuple[str, ...] = ()


class Prompt(Ask):
    """Change what the running shot shows, without a cut.

    Attributes:
        reread: how many of its newest chunks are computed anew with the text.
    """

    type: Literal["prompt"]
    text: Text
    reread: Annotated[int, Field(ge=0, le=1024)] | Literal["none", "shot"] = "none"


class Retake(Ask):
    """Make the running, or the last, shot once more with other noise."""

    type: Literal["retake"]


class Undo(Ask):
    """Go back: by chunks of the running shot, to a frame of it, or to the beginning of a shot.

    Attributes:
        chunks: how many chunks to take back.
        index: first frame of the film that is taken back.
        shot: shot that is taken back with all that follows it.
    """

    type: Literal["undo"]
    chunks: Annotated[int, Field(ge=1, le=MOST)] | None = None
    index: Number | None = None
    shot: Number | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Undo:
        if sum(v is not None for v in (self.chunks, self.index, self.shot)) != 1:
            raise ValueError("wanted exactly one of chunks, index and shot")
        return self


class Branch(Ask):
    """Open a second film that shares the past of this one; ``branched`` names it."""

    type: Literal["branch"]


class Pin(Ask):
    """Keep a remembered frame for every later cut."""

    type: Literal["pin"]
    index: Number


class Unpin(Ask):
    """Let a pinned frame be forgotten in its turn."""

    type: Literal["unpin"]
    index: Number


class Forget(Ask):
    """Remember nothing of a shot from the next cut on."""

    type: Literal["forget"]
    shot: Number


class Cancel(Ask):
    """Take back an ask that has not begun.

    Attributes:
        ask: id of that ask.
    """

    type: Literal["cancel"]
    ask: AskId


class Check(Ask):
    """Ask for the notes on a text without doing anything with it."""

    type: Literal["check"]
    text: Text


class Glass(Ask):
    """Tell when an own ask was seen; it is taken once, after ``applied``.

    Attributes:
        ask: id of that ask.
        ms: milliseconds from pressing the key to the first frame on the screen that shows it.
    """

    type: Literal["glass"]
    ask: AskId
    ms: Annotated[float, Field(gt=0, le=60_000, allow_inf_nan=False)]


class Pause(Ask):
    """Begin no further chunk until ``resume``."""

    type: Literal["pause"]


class Resume(Ask):
    """Go on after ``pause``."""

    type: Literal["resume"]


FromViewer = Annotated[
    Hello | Cut | Prompt | Retake | Undo | Branch | Pin | Unpin | Forget | Cancel | Check | Glass
    | Pause | Resume,
    Field(discriminator="type"),
]  # fmt: skip

ASKS = ("cut", "prompt", "retake", "undo", "branch", "pin", "unpin", "forget", "cancel", "check",
        "glass", "pause", "resume")  # fmt: skip

FROM_VIEWER: TypeAdapter[Any] = TypeAdapter(FromViewer)


class MalformedError(ValueError):
    """A message is not one of the protocol; carries its id where that could be read."""

    def __init__(self, message: str, ask: str | None) -> None:
        super().__init__(message)
        self.ask = ask


def read_message(text: str | bytes) -> Any:
    """Return a viewer's message.

    Raises:
        MalformedError: it is none.
    """
    try:
        return FROM_VIEWER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ASKS)[:80]
        reason = str(first["msg"])[:300]
        raise MalformedError(f"{place or 'message'}: {reason}", _id_of(first, text)) from None


def _id_of(error: Any, text: str | bytes) -> str | None:
    """Return the id of a message that is JSON and has one: its sender knows which it was."""
    if error["type"] == "json_invalid":
        return None
    try:
        return _WithId.model_validate_json(text).id
    except ValidationError:
        return None


class _WithId(BaseModel):
    id: AskId
