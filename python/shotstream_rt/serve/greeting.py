"""How a viewer's connection begins: it says hello, waits for its turn and is welcomed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import websockets
from websockets.asyncio.client import ClientConnection, connect

from .from_server import FROM_SERVER, Error, Loading, Queue, Welcome
from .from_viewer import Hello
from .server_error import ServerError

Wait = Loading | Queue
"""Why a viewer is not in the film yet: the model is being loaded, or the film waits in line."""


@dataclass(frozen=True, slots=True)
class Greeted:
    """A socket, what was said over it and how that was answered."""

    socket: ClientConnection
    address: str
    hello: Hello
    welcome: Welcome


async def greet(address: str, hello: Hello, on_wait: Callable[[Wait], None] | None) -> Greeted:
    """Connect, say hello and wait for the greeting.

    Args:
        address: of the server, without a path.
        hello: what is said.
        on_wait: called with what the server says meanwhile; see ``AsyncClient.join``.

    Raises:
        ServerError: the server cannot be reached, or refuses.
    """
    scheme, _, place = address.partition("://")
    socket_address = f"{'wss' if scheme == 'https' else 'ws'}://{place}/v1/live"
    try:
        socket = await connect(socket_address, max_size=2**24, compression=None)
    except (OSError, websockets.WebSocketException) as error:
        raise ServerError("unavailable", f"{place}: cannot be reached ({error})") from error
    try:
        await socket.send(hello.model_dump_json())
        while True:
            message = FROM_SERVER.validate_json(await socket.recv())
            if isinstance(message, Welcome):
                return Greeted(socket, address, hello, message)
            if isinstance(message, Error):
                raise ServerError(message.code, message.message)
            if on_wait is not None and isinstance(message, Wait):
                on_wait(message)
    except websockets.ConnectionClosed as error:
        raise ServerError("unavailable", f"the server ended the connection ({error})") from error
    except BaseException:
        await socket.close()
        raise
