"""Sockets that come to the door: each is joined to one of the server that has the film."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from .door_requests import target_of
from .from_server import Error, ErrorCode
from .limits import Limits
from .station import CONNECT_S, GONE, Look, NoStationError, station_of, waits
from .tokens import Tokens

UNAVAILABLE = 4503
"""Code that a socket is closed with whose server has gone: another one goes on with the film."""

_READ_AHEAD_BYTES = 1 << 14
"""How much of a film the system may hold here for a slow viewer, out of reach of the server that
drops frames; by itself it holds megabytes."""


class DoorSockets:
    """Passes sockets on.

    Args:
        look: asks the servers which films they have.
        tokens: of all servers.
        limits: of each of the servers.
    """

    def __init__(self, look: Look, tokens: Tokens, limits: Limits) -> None:
        self._look, self._tokens, self._limits = look, tokens, limits

    async def pass_on(self, viewer: WebSocket) -> None:
        """Accept one socket and pass on what is said over it, until one side ends it."""
        await viewer.accept()
        try:
            async with asyncio.timeout(self._limits.hello_s):
                hello = await viewer.receive()
        except TimeoutError:
            return await _refuse(viewer, 4401, "unauthorized", "hello: none came in time")
        if hello["type"] != "websocket.receive":
            return None
        try:
            server = await self._connect(viewer, self._film_of(_contents(hello)))
        except NoStationError as error:
            return await _refuse(viewer, UNAVAILABLE, "unavailable", str(error))
        async with server:
            with suppress(ConnectionClosed):
                await server.send(_contents(hello))
            await _exchange(viewer, server)
        return None

    def _film_of(self, hello: str | bytes) -> str | None:
        """Return the film that a first message, or its token, names; the server checks both."""
        try:
            said = json.loads(hello)
            film, token = said.get("session"), said.get("token")
        except (ValueError, AttributeError, RecursionError):
            return None
        if film is None and isinstance(token, str):
            access = self._tokens.access_of(token)
            return None if access is None else access.film
        return film if isinstance(film, str) else None

    async def _connect(self, viewer: WebSocket, film: str | None) -> ClientConnection:
        """Connect to a film's server as the viewer did to the door: same path, host and origin.

        Raises:
            NoStationError: none could be reached.
        """
        headers, target = viewer.headers, target_of(viewer.scope).decode("latin-1")
        for wait_s in waits():
            await asyncio.sleep(wait_s)
            try:
                at = urlsplit(station_of(film, await self._look()).address)
                return await connect(
                    f"ws://{headers.get('host', at.netloc)}{target}",
                    sock=await _dial(str(at.hostname), at.port or 80),
                    origin=headers.get("origin"),  # type: ignore[arg-type]
                    compression=None,
                    max_size=None,
                    max_queue=4,
                    open_timeout=CONNECT_S,
                    ping_interval=None,  # the server asks whether its viewers are there
                )
            except NoStationError as error:
                reason = str(error)
            except InvalidURI as error:
                raise NoStationError("host: not the name of a server") from error
            except (OSError, TimeoutError, InvalidHandshake):
                reason = GONE
        raise NoStationError(reason)


async def _dial(host: str, port: int) -> socket.socket:
    """Return a connected socket for which the system reads little ahead."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dialled = socket.socket(family, socket.SOCK_STREAM)
    try:
        dialled.setblocking(False)
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ_AHEAD_BYTES)
        async with asyncio.timeout(CONNECT_S):
            await asyncio.get_running_loop().sock_connect(dialled, (host, port))
    except BaseException:
        dialled.close()
        raise
    return dialled


async def _exchange(viewer: WebSocket, server: ClientConnection) -> None:
    """Pass messages both ways until one side ends it, and end the other side likewise."""
    up = asyncio.create_task(_from_viewer(viewer, server))
    down = asyncio.create_task(_from_server(viewer, server))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _from_viewer(viewer: WebSocket, server: ClientConnection) -> None:
    while (event := await viewer.receive())["type"] == "websocket.receive":
        with suppress(ConnectionClosed):  # what the server said before is still passed on
            await server.send(_contents(event))


async def _from_server(viewer: WebSocket, server: ClientConnection) -> None:
    try:
        async for data in server:
            if isinstance(data, str):
                await viewer.send_text(data)
            else:
                await viewer.send_bytes(data)
        code, reason = server.close_code or 1000, server.close_reason or ""
    except ConnectionClosed as closed:
        # Without a farewell the server has died.
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (UNAVAILABLE, "")
    await viewer.close(code, reason)


def _contents(event: Any) -> str | bytes:
    text: str | None = event.get("text")
    data: bytes = event.get("bytes") or b""
    return data if text is None else text


async def _refuse(viewer: WebSocket, close_code: int, code: ErrorCode, message: str) -> None:
    with suppress(RuntimeError, WebSocketDisconnect):
        await viewer.send_text(Error(code=code, message=message).model_dump_json())
        await viewer.close(close_code)
