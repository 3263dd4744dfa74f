"""From a message to the call of the session that does it."""

from __future__ import annotations

from ..session import Session
from ..types import Receipt
from .from_viewer import (
    Ask,
    Check,
    Cut,
    Forget,
    Pause,
    Pin,
    Prompt,
    Resume,
    Retake,
    Undo,
    Unpin,
)
from .limits import Limits
from .pictures import reference_pictures
from .problems import UnsupportedError


def ask(session: Session, message: Ask, limits: Limits) -> Receipt | tuple[str, ...]:
    """Do what a message asks for; not for ``branch`` and ``cancel``, which are about more.

    Args:
        session: of the film.
        message: what is asked for.
        limits: of the server.

    Returns:
        The receipt of what will be applied later, else notes.

    Raises:
        UnsupportedError: the session cannot do it.
        ShotStreamError: the session refused it.
    """
    receipt: Receipt | None = None
    match message:
        case Cut(text=text, now=now, images=images):
            pictures = reference_pictures(images, limits)
            receipt = session.cut(text, now=now, flush=now, images=pictures)
        case Prompt(text=text, reread=reread):
            receipt = session.prompt(text, flush=True, reread=reread)
        case Retake():
            receipt = session.retake(flush=True)
        case Undo(chunks=chunks, index=index, shot=shot):
            receipt = session.undo(chunks=chunks, frame=index, shot=shot)
        case Pin(index=index):
            session.pin(index)
        case Unpin(index=index):
            session.unpin(index)
        case Forget(shot=shot):
            session.forget(shot)
        case Check(text=text):
            notes: tuple[str, ...] = session.check(text)
            return notes
        case Pause():
            session.pause()
        case Resume():
            session.resume()
        case _:
            raise UnsupportedError(f"{type(message).__name__}: not a call of a session")
    return () if receipt is None else receipt
