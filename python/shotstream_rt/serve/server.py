"""The addresses of the server, and running it.

======================================  =====================================================
``GET /``                               the page; its script and style beside it
``WS /v1/live``                         one viewer: ``conversation.py``
``GET /v1/schema``                      JSON Schema of every message
``GET, POST /v1/sessions``              the films; open one
``GET, DELETE /v1/sessions/ID``         one film; close it
``GET /v1/sessions/ID/live.mp4``        its picture without end, for VLC, OBS and ffplay
``GET /v1/sessions/ID/film.mp4``        the film as it stands, a file
``GET /v1/sessions/ID/film.json``       its directions, which make the same film again
======================================  =====================================================
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as HTTPError

from .. import __version__
from ..errors import ConfigError, ShotStreamError
from . import protocol
from .conversation import FORBIDDEN, Conversation
from .films import Films, FilmSettings, FullError, NotFoundError
from .from_server import Error, ErrorCode
from .limits import Limits
from .live_film import LiveFilm
from .tokens import Role, Tokens, origin_allowed
from .viewer import Viewer

_log = logging.getLogger("shotstream_rt.serve")

_PAGE = {
    "": ("index.html", "text/html"),
    "desk.js": ("desk.js", "text/javascript"),
    "player.js": ("player.js", "text/javascript"),
    "desk.css": ("desk.css", "text/css"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; media-src blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class NewFilm(BaseModel):
    """Body of ``POST /v1/sessions``; ``seed`` is the noise seed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class Server:
    """One process's server.

    Args:
        settings: how films are made.
        tokens: who may do what; default: a new secret.
        limits: bounds on what others ask for.
        origins: origins of pages that may connect besides the server's own.
    """

    def __init__(
        self,
        settings: FilmSettings | None = None,
        *,
        tokens: Tokens | None = None,
        limits: Limits | None = None,
        origins: tuple[str, ...] = (),
    ) -> None:
        self.tokens = tokens or Tokens()
        self._settings, self._limits = settings or FilmSettings(), limits or Limits()
        self._origins = origins
        self._listening: socket.socket | None = None
        self._uvicorn: uvicorn.Server | None = None
        self._failed: BaseException | None = None
        self.app = self._make_app()

    def listen(self, host: str, port: int) -> str:
        """Take a port and return the address of the page, with the token in its fragment.

        Args:
            host: name or address to listen on.
            port: 0 takes any free one.

        Raises:
            ConfigError: the port or the address cannot be taken.
        """
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listening = socket.create_server((host, port), family=family, backlog=128)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--host {host} --port {port}: cannot be listened on ({error}); another program "
                "may have the port: --port 0 takes a free one"
            ) from error
        return f"{self.address}/#token={self.tokens.director}"

    @property
    def address(self) -> str:
        """The address of the server without a token; once it listens."""
        assert self._listening is not None, "listen first"
        host, port = self._listening.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
            host, f"[{host}]" if ":" in host else host
        )
        return f"http://{shown}:{port}"

    def run(self) -> None:
        """Serve until the process is asked to end, or ``stop`` is called.

        Raises:
            ShotStreamError: the model cannot be loaded.
        """
        assert self._listening is not None, "listen first"
        config = uvicorn.Config(
            self.app,
            ws="websockets-sansio",
            ws_max_size=self._limits.message_bytes,
            ws_per_message_deflate=False,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        self._uvicorn = uvicorn.Server(config)
        self._uvicorn.run(sockets=[self._listening])
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """Ask ``run`` to end; from any thread."""
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    def _make_app(self) -> FastAPI:
        app = FastAPI(
            title="shotstream_rt",
            version=__version__,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url="/v1/openapi.json",
        )
        app.state.tokens = self.tokens
        app.middleware("http")(self._look_at_request)
        app.add_exception_handler(ShotStreamError, _answer_error)
        app.add_exception_handler(HTTPError, _answer_refusal)
        app.add_exception_handler(RequestValidationError, _answer_malformed)
        _add_page(app)
        _add_films(app, self)
        app.add_api_websocket_route("/v1/live", self._converse)
        return app

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.films = Films(self._settings, self._limits)
        self.films.load().add_done_callback(self._look_at_model)
        watching = asyncio.create_task(self.films.watch_over())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await self.films.close()

    def _look_at_model(self, loading: Any) -> None:
        """End the server if there is no model: it has nothing to show."""
        if not loading.cancelled() and loading.exception() is not None:
            self._failed = loading.exception()
            self.stop()

    async def _look_at_request(self, request: Request, answer: Callable[..., Any]) -> Any:
        """Refuse pages of other origins; add what browsers are to keep to."""
        headers = request.headers
        if not origin_allowed(headers.get("origin"), headers.get("host"), self._origins):
            return _error(403, "forbidden", "origin: not that of this server")
        response = await answer(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _converse(self, socket: WebSocket) -> None:
        await socket.accept()
        headers = socket.headers
        if not origin_allowed(headers.get("origin"), headers.get("host"), self._origins):
            error = Error(code="forbidden", message="origin: not that of this server")
            await socket.send_text(error.model_dump_json())
            await socket.close(FORBIDDEN)
            return
        await Conversation(socket, self.films, self.tokens).run()


def _watches(request: Request) -> Role:
    """Return what a request's token allows; refuse one without."""
    role: Role | None = request.app.state.tokens.role_of_header(
        request.headers.get("authorization")
    )
    if role is None:
        # Players ask for a password when they are told to; the page has a bearer token.
        ask = {"WWW-Authenticate": "Basic"} if request.url.path.endswith("live.mp4") else None
        raise HTTPException(401, "token: none, or not one of this server", headers=ask)
    return role


def _directs(role: Annotated[Role, Depends(_watches)]) -> None:
    """Refuse a token that only watches."""
    if role != "director":
        raise HTTPException(403, "token: it watches, and does not direct")


def _add_page(app: FastAPI) -> None:
    """Add the page; it is no secret, and shows nothing without a token."""
    folder = resources.files("shotstream_rt.serve") / "page"

    def add(path: str, content: bytes, kind: str) -> None:
        @app.get(f"/{path}", include_in_schema=False)
        def page() -> Response:
            return Response(content, media_type=f"{kind}; charset=utf-8")

    for path, (name, kind) in _PAGE.items():
        add(path, (folder / name).read_bytes(), kind)

    @app.get("/v1/schema")
    def schema() -> dict[str, Any]:
        """Return the JSON Schema of every message of the socket."""
        return protocol.schema()


def _add_films(app: FastAPI, server: Server) -> None:
    """Add the addresses of films."""

    @app.get("/v1/sessions", dependencies=[Depends(_watches)])
    async def sessions() -> dict[str, Any]:
        """Return the films."""
        return {"sessions": [_described(film) for film in server.films.all()]}

    @app.post("/v1/sessions", status_code=201, dependencies=[Depends(_directs)])
    async def open_session(new: NewFilm | None = None) -> dict[str, Any]:
        """Open a film."""
        return _described(await server.films.open(new.seed if new else None))

    @app.get("/v1/sessions/{id}", dependencies=[Depends(_watches)])
    async def session(id: str) -> dict[str, Any]:
        """Return how a film is doing."""
        film = server.films.find(id)
        return {**_described(film), "stats": film.session.stats}

    @app.delete("/v1/sessions/{id}", status_code=204, dependencies=[Depends(_directs)])
    async def close_session(id: str) -> None:
        """Close a film."""
        await server.films.close_film(server.films.find(id), "it was closed")

    @app.get("/v1/sessions/{id}/live.mp4", dependencies=[Depends(_watches)])
    async def live(id: str) -> Response:
        """Return the picture from now on, without end."""
        film = server.films.find(id)
        if server.films.viewers >= server.films.limits.viewers:
            raise FullError(f"viewers: there are {server.films.limits.viewers} already")
        return StreamingResponse(_live(film, server.films.limits), media_type="video/mp4")

    @app.get("/v1/sessions/{id}/film.mp4", dependencies=[Depends(_watches)])
    async def film_file(id: str) -> Response:
        """Return the film as it stands."""
        size, contents = server.films.find(id).file()
        headers = {
            "Content-Length": str(size),
            "Content-Disposition": f'attachment; filename="film-{id}.mp4"',
        }
        return StreamingResponse(contents, media_type="video/mp4", headers=headers)

    @app.get("/v1/sessions/{id}/film.json", dependencies=[Depends(_watches)])
    async def directions(id: str) -> Response:
        """Return the film's directions."""
        session = server.films.find(id).session
        headers = {"Content-Disposition": f'attachment; filename="film-{id}.json"'}
        return JSONResponse(session.directions(), headers=headers)


async def _live(film: LiveFilm, limits: Limits) -> AsyncIterator[bytes]:
    """Yield head and fragments for as long as somebody reads."""
    viewer = Viewer(limits)
    film.join(viewer)
    try:
        while (item := await viewer.next()) is not None:
            if isinstance(item, bytes):
                yield item
    finally:
        film.leave(viewer)


def _described(film: LiveFilm) -> dict[str, Any]:
    return {"id": film.id, **film.stats().model_dump(exclude={"type"})}


def _error(status: int, code: ErrorCode, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, NotFoundError):
        return _error(404, "not_found", str(error))
    if isinstance(error, FullError):
        return _error(429, "full", str(error))
    if isinstance(error, ConfigError):
        return _error(422, "refused", str(error))
    return _error(500, "failed", str(error))


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPError)
    codes: dict[int, ErrorCode] = {401: "unauthorized", 403: "forbidden"}
    response = _error(error.status_code, codes.get(error.status_code, "not_found"), error.detail)
    response.headers.update(error.headers or {})
    return response


async def _answer_malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])[:80]
    return _error(422, "malformed", f"{place}: {first['msg']}"[:300])
