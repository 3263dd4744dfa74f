"""What the system is to do with connections, so that no viewer holds more than a little."""

from __future__ import annotations

import socket

PING_S = 5
"""Seconds between two pings on a socket."""
_UNSENT_BYTES = 1 << 14
"""How much may wait in the system beyond what is on its way. It keeps megabytes otherwise: minutes
of a film that a slow viewer would see late, out of reach of what drops frames here."""
_UNHEARD_MS = 60_000
"""After so long in which nothing gets through the system gives a connection up, also one that was
closed here and has something left to send. By itself it takes a quarter of an hour."""


def prepare(listening: socket.socket) -> None:
    """Set up a listening socket; the connections that it takes inherit it.

    Args:
        listening: of TCP. What its system does not know is left out.
    """
    for name, value in (("TCP_NOTSENT_LOWAT", _UNSENT_BYTES), ("TCP_USER_TIMEOUT", _UNHEARD_MS)):
        option = getattr(socket, name, None)
        if option is not None:
            listening.setsockopt(socket.IPPROTO_TCP, option, value)
