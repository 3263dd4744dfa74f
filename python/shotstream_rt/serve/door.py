"""One address for many servers: what a film is asked for goes to the server that has it.

The door remembers nothing. For each request and each new socket it asks the servers which films
they have, so it may be ended and begun again at any time, and there may be several.

==============================  ==================================================================
what comes                      where it goes
==============================  ==================================================================
names a film that is open       to the server that has it
names a film that nobody has    to the server that its name picks (``home``), which opens it from
                                the store that all of them share, or says that there is none
a new film                      to the server with the most room
names no film                   to the server that opened a film last, as a single server does it
a list of films, or /metrics    to all; what they tell is joined
anything else                   to any
==============================  ==================================================================

Bytes are passed on as they come and are held nowhere: whoever reads slowly is found slow by the
film's server, which then leaves frames out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from .door_requests import DoorRequests
from .door_sockets import DoorSockets
from .limits import Limits
from .station import Look, Station
from .tokens import Tokens


class Door:
    """An ASGI application that passes everything on.

    Args:
        look: asks the servers to describe themselves; those that do not answer are left out.
        tokens: of all servers.
        limits: of each of the servers.
    """

    def __init__(self, look: Look, tokens: Tokens, limits: Limits) -> None:
        self._look = look
        self._looking: asyncio.Task[Sequence[Station]] | None = None
        self._requests = DoorRequests(self.stations)
        self._sockets = DoorSockets(self.stations, tokens, limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request, or one socket for as long as it lasts.

        Args:
            scope: of ASGI; anything but HTTP and WebSocket is left alone.
            receive: of ASGI.
            send: of ASGI.
        """
        if scope["type"] == "websocket":
            await self._sockets.pass_on(WebSocket(scope, receive, send))
        elif scope["type"] == "http":
            response = await self._requests.answer(Request(scope, receive))
            await response(scope, receive, send)

    async def stations(self) -> Sequence[Station]:
        """Ask the servers; those who want to know at the same time share one answer."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._looking)

    async def close(self) -> None:
        """Let the connections to the servers go."""
        await self._requests.close()
