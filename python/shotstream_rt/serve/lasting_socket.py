"""The socket of a client that comes back: one connection after the other to the same film."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import websockets

from .from_server import FROM_SERVER, Ended, Error
from .greeting import Greeted, Wait, greet
from .server_error import ServerError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
"""Between attempts to connect anew."""


class LastingSocket:
    """Hears and says what one viewer does, over whichever connection there is.

    Args:
        connection: the first one.
        reconnect_s: seconds for which a lost connection is tried anew; 0: it is not.
        after: returns what the next ``Hello`` says as ``after``, in which the viewer comes back.
        on_wait: called with what the server says while a connection that was lost waits.

    Attributes:
        waits_for: what a connection that was lost waits for; None while there is one.
        reconnects: how often a lost connection came back.
        ended: why there is no connection; None while there is one, and after ``close``.
    """

    def __init__(
        self,
        connection: Greeted,
        *,
        reconnect_s: float,
        after: Callable[[], int | None],
        on_wait: Callable[[Wait], None] | None = None,
    ) -> None:
        self.waits_for: Wait | None = None
        self.reconnects = 0
        self.ended: str | None = None
        self._connection, self._reconnect_s = connection, reconnect_s
        self._after, self._on_wait = after, on_wait
        self._closing = asyncio.Event()

    @property
    def address(self) -> str:
        """Of the server, without a path."""
        return self._connection.address

    @property
    def token(self) -> str:
        """What the viewer shows to the server."""
        return self._connection.hello.token

    async def send(self, text: str) -> None:
        """Send a message; one that is lost on its way has to be sent again after ``Welcome``."""
        with suppress(websockets.ConnectionClosed):
            await self._connection.socket.send(text)

    async def heard(self) -> AsyncIterator[Any]:
        """Yield what the server says until it is over: messages, and binary ones as ``bytes``.

        Every connection begins with its ``Welcome``.
        """
        while True:
            yield self._connection.welcome
            ended, lost = None, "the connection ended"
            try:
                async for data in self._connection.socket:
                    if not isinstance(data, str):
                        yield data
                        continue
                    message = FROM_SERVER.validate_json(data)
                    if isinstance(message, Ended):
                        ended = message
                    elif isinstance(message, Error) and message.id is None:
                        lost = message.message  # said before a connection is closed
                    yield message
            except websockets.ConnectionClosedError as error:
                lost = f"the connection broke ({error})"
            if self._closing.is_set():
                return
            if ended is not None:
                lost = f"the film has ended: {ended.message}"
            self.ended = lost
            if ended is not None and ended.reason == "closed":
                return
            if not await self._come_back(lost):
                return

    def lose(self) -> None:
        """Break the connection as a network does."""
        self._connection.socket.transport.abort()

    async def close(self) -> None:
        """End the connection, and try no other one."""
        self._closing.set()
        await self._connection.socket.close()

    async def fail(self, reason: str) -> None:
        """End the connection because what came over it cannot be used.

        Args:
            reason: what is wrong with it.
        """
        self.ended = reason
        await self._connection.socket.close()

    async def _come_back(self, lost: str) -> bool:
        """Connect anew to the same film; return whether that was possible in time."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + self._reconnect_s, _FIRST_PAUSE_S
        hello = self._connection.hello.model_copy(
            update={"session": self._connection.welcome.session, "after": self._after()}
        )
        while loop.time() < end:
            try:
                connection = await self._unless_closing(
                    greet(self._connection.address, hello, self._hear_wait)
                )
            except ServerError as error:
                if not error.retryable:
                    self.ended = f"{lost}; then: {error}"
                    return False
                if self.waits_for is not None:  # the server was there until now
                    end, pause = loop.time() + self._reconnect_s, _FIRST_PAUSE_S
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)
                if self._closing.is_set():
                    self.ended = None
                    return False
                pause = min(_LONGEST_PAUSE_S, 2 * pause)
                continue
            finally:
                self.waits_for = None
            self.ended = None
            if connection is None:
                return False
            self._connection = connection
            self.reconnects += 1
            return True
        return False

    async def _unless_closing(self, connecting: Coroutine[Any, Any, Greeted]) -> Greeted | None:
        """Return the new connection; None if this is closed meanwhile, also in the line."""
        task = asyncio.create_task(connecting)
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({task, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not self._closing.is_set():
                return task.result()
        finally:
            closing.cancel()
            task.cancel()
        with suppress(ServerError, asyncio.CancelledError):
            await (await task).socket.close()  # it was there at the same moment
        return None

    def _hear_wait(self, message: Wait) -> None:
        self.waits_for = message
        if self._on_wait is not None:
            self._on_wait(message)
