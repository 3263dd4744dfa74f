"""Requests that come to the door: passed on to a server, or answered from what all of them say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Scope

from . import metrics
from .answers import answer
from .problems import problem
from .station import (
    CONNECT_S,
    GONE,
    Look,
    NoStationError,
    Station,
    roomiest,
    station_of,
    waits,
)

_COLLECTIONS = ("sessions", "videos")
_OF_ONE_CONNECTION = {
    "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "date",
}  # fmt: skip
"""Headers that are about the way between two programs, or that the door itself sets."""


class DoorRequests:
    """Passes requests on, with a pool of connections to the servers.

    Args:
        look: asks the servers which films they have.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        # A film may stand still for as long as its director wants: reading has no time limit.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=None),
        )

    async def close(self) -> None:
        """Let the connections to the servers go."""
        await self._http.aclose()

    async def answer(self, request: Request) -> Response:
        """Return what is answered to one request."""
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
            return answer(problem("unavailable", GONE))
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
        for wait_s in waits():
            await asyncio.sleep(wait_s)
            try:
                station = choose(await self._look())
                return await self._http.send(_request(request, station), stream=True)
            except NoStationError as error:
                reason = str(error)
            except httpx.ConnectError:
                reason = GONE
        raise NoStationError(reason)

    async def _join(self, request: Request) -> Response:
        """Return what all servers list or measure, as one of them does for itself."""
        stations = await self._look()
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
            raise NoStationError(GONE)
        headers = {"Cache-Control": "no-store"}
        if request.url.path == "/metrics":
            text = metrics.joined({address: one.text for address, one in told.items()})
            return Response(text, headers=headers, media_type=metrics.PLAIN)
        return JSONResponse(_joined([one.json() for one in told.values()]), headers=headers)


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


def _request(request: Request, station: Station) -> httpx.Request:
    with_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    return httpx.Request(
        request.method,
        httpx.URL(station.address).copy_with(raw_path=target_of(request.scope)),
        headers=_passed_on(request.headers.raw),
        content=request.stream() if with_body else None,
    )


def target_of(scope: Scope) -> bytes:
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
