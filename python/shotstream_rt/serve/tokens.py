"""Who may direct and who may watch, and which films.

A server has one secret. The director's token is the secret itself and directs every film; the
viewer's token is made from it and watches every film. ``mint`` makes tokens of one film, which may
end at a time; they are signed, not kept, so that every process with the same secret knows them.

Tokens travel in the fragment of an address, which browsers send to nobody, then in the first
message of a socket or in the ``Authorization`` header; never in a query, which servers and proxies
write to their logs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..inputs import read_text

Role = Literal["director", "viewer"]

_FEWEST, _MOST = 16, 200

_LETTERS: dict[Role, str] = {"director": "d", "viewer": "v"}
_ROLES = {letter: role for role, letter in _LETTERS.items()}
_OF_A_FILM = re.compile(r"f1\.([dv])\.([A-Za-z0-9_-]{1,64})\.([0-9]{1,12})\.([A-Za-z0-9_-]{43})")
"""Role, id of the film, Unix time of the end (0: none), signature."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a token allows.

    Attributes:
        role: direct and watch, or only watch.
        film: id of the one film that it is for; None for every film of the server.
        expires_at: Unix time in seconds from which on it allows nothing; None for no end.
        name: tells tokens apart in quotas and logs, and tells nobody the token.
    """

    role: Role
    film: str | None
    expires_at: int | None
    name: str

    @property
    def directs(self) -> bool:
        """Whether it directs."""
        return self.role == "director"

    def is_for(self, film: str) -> bool:
        """Tell whether it is for a film, named by its id."""
        return self.film in (None, film)

    def left_s(self, now_s: float | None = None) -> float | None:
        """Return the seconds until it ends; None for one without an end.

        Args:
            now_s: Unix time; default: now.
        """
        if self.expires_at is None:
            return None
        return self.expires_at - (time.time() if now_s is None else now_s)


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
        self.viewer = self._signature("shotstream viewer")

    @classmethod
    def from_file(cls, path: str | Path) -> Tokens:
        """Read the director's token from a file of one line.

        Raises:
            ConfigError: the file cannot be read or holds no usable token.
        """
        return cls(read_text(Path(path), limit_bytes=4096, what="token").strip())

    def mint(self, role: Role, film: str, *, expires_at: int | None = None) -> str:
        """Return a token of one film. The same arguments give the same token.

        Args:
            role: what it allows.
            film: id of the film.
            expires_at: Unix time in seconds from which on it allows nothing; default: no end.
        """
        said = f"f1.{_LETTERS[role]}.{film}.{expires_at or 0}"
        return f"{said}.{self._signature(said)}"

    def access_of(self, token: str, now_s: float | None = None) -> Access | None:
        """Return what a token allows; None for an unknown one and for one that has ended.

        How long it takes tells nothing about the secret.

        Args:
            token: as it was shown.
            now_s: Unix time; default: now.
        """
        given = token.encode("utf-8", "replace")
        director = hmac.compare_digest(given, self.director.encode())
        viewer = hmac.compare_digest(given, self.viewer.encode())
        name = hashlib.sha256(given).hexdigest()[:12]
        if director or viewer:
            return Access("director" if director else "viewer", None, None, name)
        parts = _OF_A_FILM.fullmatch(token)
        if parts is None:
            return None
        letter, film, end, signature = parts.groups()
        if not hmac.compare_digest(signature, self._signature(token.rpartition(".")[0])):
            return None
        access = Access(_ROLES[letter], film, int(end) or None, name)
        left_s = access.left_s(now_s)
        return access if left_s is None or left_s > 0 else None

    def access_of_header(self, authorization: str | None) -> Access | None:
        """Return what an ``Authorization`` header allows: a bearer token, or a basic password.

        Players such as VLC and OBS only know the second: ``http://any:TOKEN@host/...``.
        """
        scheme, _, value = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            return self.access_of(value.strip())
        if scheme.lower() == "basic":
            try:
                pair = base64.b64decode(value.strip(), validate=True).decode()
            except (binascii.Error, ValueError):
                return None
            return self.access_of(pair.partition(":")[2])
        return None

    def _signature(self, said: str) -> str:
        mark = hmac.digest(self.director.encode(), said.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(mark).decode().rstrip("=")


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
