"""Who may direct and who may watch.

A server has one secret. The director's token is the secret itself; the viewer's token is made from
it and only watches, so that a link can be shared. Tokens travel in the fragment of an address,
which browsers send to nobody, then in the first message of a socket or in the ``Authorization``
header; never in a query, which servers and proxies write to their logs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..inputs import read_text

Role = Literal["director", "viewer"]

_FEWEST, _MOST = 16, 200


class Tokens:
    """The tokens of one server.

    Args:
        secret: the director's token; default: a new random one.

    Raises:
        ConfigError: the secret is too short to keep anybody out, or has characters that an address
            cannot carry.
    """

    def __init__(self, secret: str | None = None) -> None:
        self.director = secrets.token_urlsafe(24) if secret is None else secret
        usable = all(c.isascii() and (c.isalnum() or c in "-_.~") for c in self.director)
        if not _FEWEST <= len(self.director) <= _MOST or not usable:
            raise ConfigError(
                f"token: got {len(self.director)} characters, wanted {_FEWEST} to {_MOST} of "
                "letters, digits and -_.~"
            )
        mark = hmac.digest(self.director.encode(), b"shotstream viewer", hashlib.sha256)
        self.viewer = base64.urlsafe_b64encode(mark).decode().rstrip("=")

    @classmethod
    def from_file(cls, path: str | Path) -> Tokens:
        """Read the director's token from a file of one line.

        Raises:
            ConfigError: the file cannot be read or holds no usable token.
        """
        return cls(read_text(Path(path), limit_bytes=4096, what="token").strip())

    def role_of(self, token: str) -> Role | None:
        """Return what a token allows; None for an unknown one. Takes the same time for any."""
        given = token.encode("utf-8", "replace")
        director = hmac.compare_digest(given, self.director.encode())
        viewer = hmac.compare_digest(given, self.viewer.encode())
        return "director" if director else "viewer" if viewer else None

    def role_of_header(self, authorization: str | None) -> Role | None:
        """Return what an ``Authorization`` header allows: a bearer token, or a basic password.

        Players such as VLC and OBS only know the second: ``http://any:TOKEN@host/...``.
        """
        scheme, _, value = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            return self.role_of(value.strip())
        if scheme.lower() == "basic":
            try:
                pair = base64.b64decode(value.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return None
            return self.role_of(pair.partition(":")[2])
        return None


def origin_allowed(origin: str | None, host: str | None, others: tuple[str, ...]) -> bool:
    """Tell whether a page of some origin may talk to this server.

    Args:
        origin: the ``Origin`` header. Browsers always send it with a socket; programs need not.
        host: the ``Host`` header, which names the server as the browser knows it.
        others: origins allowed besides, such as ``https://example.org``.
    """
    if origin is None or origin in others:
        return True
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == str(host).lower()
    except ValueError:
        return False
