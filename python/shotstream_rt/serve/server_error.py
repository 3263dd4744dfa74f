"""The error that a server answered with, over its socket or over HTTP."""

from __future__ import annotations

import httpx

from ..errors import ShotStreamError
from .from_server import RETRYABLE, ErrorCode


class ServerError(ShotStreamError):
    """The server did not do what was asked for.

    Attributes:
        code: the kind of mistake; see ``Error``.
        retryable: whether the same, asked again a little later, may be done.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = code in RETRYABLE


def error_of(response: httpx.Response) -> ServerError:
    """Return the error that an answer over HTTP tells."""
    try:
        told = response.json()["error"]
        return ServerError(told["code"], told["message"])
    except (ValueError, KeyError, TypeError):  # of a proxy in front of the server
        code: ErrorCode = "unavailable" if response.status_code >= 500 else "refused"
        return ServerError(code, f"the server answered {response.status_code}")
