"""What went wrong, told in one form: over HTTP as ``{"error": ...}``, over the socket as ``Error``.

What is told never names a file or folder of this machine: messages of errors that a request brings
about are written for who asked, all others go to the log alone.
"""

from __future__ import annotations

import logging

from pydantic import BaseModel

from ..errors import ConfigError, SessionClosedError, ShotStreamError
from ..printable import printable
from .from_server import RETRYABLE, ErrorCode

_log = logging.getLogger("shotstream_rt.serve")


class Problem(BaseModel):
    """What went wrong.

    Attributes:
        code: the kind, for programs.
        message: for people: what was got, what was wanted.
        retryable: whether the same, asked again a little later, may be done.
    """

    code: ErrorCode
    message: str
    retryable: bool


class ServeError(ShotStreamError):
    """An error of the server whose message may be told to whoever asked; ``code`` is its kind."""

    code: ErrorCode = "refused"


class FullError(ServeError):
    """A limit of the server is reached; names it."""

    code = "full"


class NotFoundError(ServeError):
    """There is no such film or video."""

    code = "not_found"


class ForbiddenError(ServeError):
    """The token does not allow it."""

    code = "forbidden"


class NotReadyError(ServeError):
    """What was asked for is still being made."""

    code = "not_ready"


class AsleepError(NotReadyError):
    """A film has no session now."""


class UnavailableError(ServeError):
    """Not now: the model is not loaded, or the server ends."""

    code = "unavailable"


class UnsupportedError(ServeError):
    """Sessions of this version cannot do it."""

    code = "unsupported"


class EndingError(ServeError):
    """The server ends and opens no more films."""

    code = "unavailable"

    def __init__(self) -> None:
        super().__init__("server: it ends; ask for the film again when it is back")


class StoreError(ServeError):
    """The store cannot be read or written, or what it holds of a film is damaged.

    The message names the film and the value, and never a place on the host.
    """

    code = "failed"


class HeldError(ServeError):
    """Another process runs the film. It may be asked for again later."""

    code = "unavailable"


class NoModelError(ServeError):
    """The model could not be loaded; why is told to who runs the server."""

    code = "failed"


def problem(code: ErrorCode, message: str) -> Problem:
    """Return a problem of a kind; its message is made fit to be shown anywhere."""
    return Problem(code=code, message=printable(message, 500), retryable=code in RETRYABLE)


def problem_of(error: BaseException) -> Problem:
    """Return what may be told about an error, and log what may not."""
    if isinstance(error, ServeError):
        return problem(error.code, str(error))
    if isinstance(error, ConfigError | SessionClosedError):
        return problem("refused", str(error))
    _log.error("a request failed", exc_info=error)
    return problem("failed", f"{type(error).__name__}: the server's log says more")
