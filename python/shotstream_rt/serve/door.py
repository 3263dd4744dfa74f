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
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from . import metrics
from .answers import answer
from .from_server import Error, ErrorCode
from .limits import Limits
from .problems import problem
from .tokens import Tokens

if TYPE_CHECKING:
    from .server import Server

UNAVAILABLE = 4503
"""Code that a socket is closed with whose server has gone: another one goes on with the film."""

_COLLECTIONS = ("sessions", "videos")
_TRIES = 5
_AGAIN_S = 0.2
"""How long a second try waits; a further one waits twice as long as the one before."""
_CONNECT_S = 5
_GONE = "the server of this film has gone; another one goes on with it"
_READ_AHEAD_BYTES = 1 << 14
"""How much of a film the system may hold here for a slow viewer, out of reach of the server that
drops frames; by itself it holds megabytes."""
_OF_ONE_CONNECTION = {
    "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "date",
}  # fmt: skip
"""Headers that are about the way between two programs, or that the door itself sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One server behind the door, as it describes itself.

    Attributes:
        address: where it listens, ``http://10.0.0.5:40123``.
        films: ids of its open films.
        videos: ids of its videos.
        opened_s: when it opened the last film, in seconds since 1970; 0 without any.
        full: whether it has as many films as it may have.
        room: how many more films it would play at once; below zero while some wait in line.
    """

    address: str
    films: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    opened_s: float = 0.0
    full: bool = False
    room: int = 0


class NoStationError(Exception):
    """There is no server, or none that answers."""


def describe(server: Server) -> Station:
    """Return how a server that has loaded its model describes itself; from any thread."""
    films, line = server.films.all(), server.films.line
    return Station(
        address=server.address,
        films=tuple(film.id for film in films),
        videos=server.videos.ids,
        opened_s=max((film.opened_s for film in films), default=0.0),
        full=len(films) >= server.films.limits.sessions,
        room=server.films.capacity() - line.playing - len(line),
    )


def home(name: str, stations: Sequence[Station]) -> Station:
    """Return the server that the id of a film picks among those that there are.

    Every door picks the same one, and when a server goes only its own films move.
    """
    return max(
        stations,
        key=lambda station: hashlib.sha256(f"{name} {station.address}".encode()).digest(),
    )


def station_of(name: str | None, stations: Sequence[Station]) -> Station:
    """Return the server that answers for a film or a video, or for whoever names none.

    Raises:
        NoStationError: there is no server.
    """
    if not stations:
        raise NoStationError("no server is there yet")
    if name is not None:
        having = (station for station in stations if name in (*station.films, *station.videos))
        return next(having, None) or home(name, stations)
    newest = max(stations, key=lambda station: station.opened_s)
    return newest if newest.films else roomiest(stations)


def roomiest(stations: Sequence[Station]) -> Station:
    """Return the server that is to open a new film.

    Raises:
        NoStationError: there is no server.
    """
    if not stations:
        raise NoStationError("no server is there yet")
    return max(stations, key=lambda station: (not station.full, station.room, -len(station.films)))


class Door:
    """An ASGI application that passes everything on.

    Args:
        look: asks the servers to describe themselves; those that do not answer are left out.
        tokens: of all servers.
        limits: of each of the servers.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[Sequence[Station]]],
        tokens: Tokens,
        limits: Limits,
    ) -> None:
        self._look, self._tokens, self._limits = look, tokens, limits
        self._looking: asyncio.Task[Sequence[Station]] | None = None
        # A film may stand still for as long as its director wants: reading has no time limit.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request, or one socket for as long as it lasts."""
        if scope["type"] == "websocket":
            await self._pass_socket_on(WebSocket(scope, receive, send))
        elif scope["type"] == "http":
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)

    async def stations(self) -> Sequence[Station]:
        """Ask the servers; those who want to know at the same time share one answer."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._looking)

    async def close(self) -> None:
        """Let the connections to the servers go."""
        await self._http.aclose()

    # Requests.

    async def _answer(self, request: Request) -> Response:
        parts = request.url.path.strip("/").split("/")
        collection = parts[1] if len(parts) > 1 and parts[0] == "v1" else ""
        try:
            of_all = collection in _COLLECTIONS and len(parts) == 2
            if request.method == "GET" and (of_all or parts == ["metrics"]):
                return await self._join(request)
            name = parts[2] if collection in _COLLECTIONS and len(parts) > 2 else None
            upstream = await self._ask(
                request,
                lambda stations: roomiest(stations) if of_all else station_of(name, stations),
            )
        except NoStationError as error:
            return answer(problem("unavailable", str(error)))
        except (httpx.TransportError, ClientDisconnect):
            return answer(problem("unavailable", _GONE))
        response = StreamingResponse(_body(upstream), upstream.status_code)
        response.raw_headers = _passed_on(upstream.headers.raw)
        return response

    async def _ask(
        self,
        request: Request,
        choose: Callable[[Sequence[Station]], Station],
    ) -> httpx.Response:
        """Return a server's answer, its body not yet read.

        A server that cannot be reached has gone: all are asked anew who has the film. Nothing was
        sent to it, so no request is done twice.

        Raises:
            NoStationError: none could be reached.
            httpx.TransportError: the connection broke after that.
        """
        for wait_s in _waits():
            await asyncio.sleep(wait_s)
            try:
                station = choose(await self.stations())
                return await self._http.send(_request(request, station), stream=True)
            except NoStationError as error:
                reason = str(error)
            except httpx.ConnectError:
                reason = _GONE
        raise NoStationError(reason)

    async def _join(self, request: Request) -> Response:
        """Return what all servers list or measure, as one of them does for itself."""
        stations = await self.stations()
        if not stations:
            raise NoStationError("no server is there yet")
        answers = await asyncio.gather(
            *(self._http.send(_request(request, station)) for station in stations),
            return_exceptions=True,
        )
        told: dict[str, httpx.Response] = {}
        for station, one in zip(stations, answers, strict=True):
            if isinstance(one, BaseException):
                continue  # it has just gone
            if one.status_code != 200:
                response = Response(one.content, one.status_code)
                response.raw_headers = _passed_on(one.headers.raw)
                return response
            told[station.address] = one
        if not told:
            raise NoStationError(_GONE)
        headers = {"Cache-Control": "no-store"}
        if request.url.path == "/metrics":
            text = metrics.joined({address: one.text for address, one in told.items()})
            return Response(text, headers=headers, media_type=metrics.PLAIN)
        return JSONResponse(_joined([one.json() for one in told.values()]), headers=headers)

    # Sockets.

    async def _pass_socket_on(self, viewer: WebSocket) -> None:
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
        headers, target = viewer.headers, _target(viewer.scope).decode("latin-1")
        for wait_s in _waits():
            await asyncio.sleep(wait_s)
            try:
                at = urlsplit(station_of(film, await self.stations()).address)
                return await connect(
                    f"ws://{headers.get('host', at.netloc)}{target}",
                    sock=await _dial(str(at.hostname), at.port or 80),
                    origin=headers.get("origin"),  # type: ignore[arg-type]
                    compression=None,
                    max_size=None,
                    max_queue=4,
                    open_timeout=_CONNECT_S,
                    ping_interval=None,  # the server asks whether its viewers are there
                )
            except NoStationError as error:
                reason = str(error)
            except InvalidURI as error:
                raise NoStationError("host: not the name of a server") from error
            except (OSError, TimeoutError, InvalidHandshake):
                reason = _GONE
        raise NoStationError(reason)


def _joined(lists: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the films, or the videos, of all servers as one server lists its own."""
    joined = lists[0]
    if "sessions" in joined:
        films = [film for one in lists for film in one["sessions"]]
        open_ids = {film["id"] for film in films}
        stored = {id for one in lists for id in one.get("stored", ())} - open_ids
        return {**joined, "sessions": films, "stored": sorted(stored)}
    videos = [video for one in lists for video in one["data"]]
    videos.sort(key=lambda video: -video["created_at"])
    ends = (videos[0]["id"], videos[-1]["id"]) if videos else (None, None)
    return {**joined, "data": videos, "first_id": ends[0], "last_id": ends[1]}


async def _dial(host: str, port: int) -> socket.socket:
    """Return a connected socket for which the system reads little ahead."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dialled = socket.socket(family, socket.SOCK_STREAM)
    try:
        dialled.setblocking(False)
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ_AHEAD_BYTES)
        async with asyncio.timeout(_CONNECT_S):
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


def _request(request: Request, station: Station) -> httpx.Request:
    with_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    return httpx.Request(
        request.method,
        httpx.URL(station.address).copy_with(raw_path=_target(request.scope)),
        headers=_passed_on(request.headers.raw),
        content=request.stream() if with_body else None,
    )


def _target(scope: Scope) -> bytes:
    """Return path and query as they were sent."""
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return path + b"?" + query if query else path


def _passed_on(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower(), value)
        for name, value in headers
        if name.decode("latin-1").lower() not in _OF_ONE_CONNECTION
    ]


async def _body(upstream: httpx.Response) -> AsyncIterator[bytes]:
    """Yield an answer's body as it comes, and let the server know when nobody wants more of it."""
    try:
        with suppress(httpx.TransportError):  # it breaks off for the viewer too
            async for piece in upstream.aiter_raw():
                yield piece
    finally:
        await upstream.aclose()


def _waits() -> list[float]:
    return [0.0, *(_AGAIN_S * 2**n for n in range(_TRIES - 1))]
