"""The address of a server, as ``serve`` prints it: with the token, and perhaps a film."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from ..errors import ConfigError


def address_of(url: str, *, token: str | None = None) -> tuple[str, str, str | None]:
    """Take apart the address of a page, as ``serve`` prints it.

    Args:
        url: address, with token and session in its fragment or without.
        token: instead of the fragment's.

    Returns:
        Address of the server, token, and the film's id if there is one.

    Raises:
        ConfigError: the address cannot be used, or carries no token and none is given.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # brackets without an address in them
        usable = False
    if not usable:
        raise ConfigError(f"url: got {url.partition('#')[0]!r}, wanted http://HOST:PORT/#token=")
    fragment = parse_qs(parts.fragment)
    token = token or next(iter(fragment.get("token", [])), None)
    if token is None:
        raise ConfigError("token: none in the address and none given; `serve` prints it")
    return f"{parts.scheme}://{parts.netloc}", token, next(iter(fragment.get("session", [])), None)
