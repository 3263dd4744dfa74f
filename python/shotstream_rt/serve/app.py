"""The addresses of the server.

=====================================  =====================================================
``GET /``                              the page; its script and style beside it
``WS /v1/live``                        one viewer: ``conversation.py``
``GET /v1/schema``                     JSON Schema of every message
``GET, POST /v1/sessions``             the films; open one
``GET, DELETE /v1/sessions/ID``        one film; close it
``POST /v1/sessions/ID/tokens``        a token for one film
``GET /v1/sessions/ID/live.mp4``       its picture without end, for VLC, OBS and ffplay
``GET /v1/sessions/ID/film.mp4``       the film as it stands, a file
``GET /v1/sessions/ID/film.json``      its directions, which make the same film again
``GET, POST /v1/videos``               films made as a whole; order one
``GET, DELETE /v1/videos/ID``          how far one is; delete it
``GET /v1/videos/ID/content``          its file
``GET /healthz, /readyz, /metrics``    for whoever runs the server: ``operator_routes.py``
``POST /v1/profile``                   a look at what the films do
``GET /v1/openapi.json``               the addresses above, for programs
=====================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from .. import __version__
from ..errors import ShotStreamError
from . import answers, film_routes, operator_routes, page_routes, video_routes
from .gate import Gate
from .limits import Limits
from .metrics import CountResponses, Metrics
from .tokens import Tokens

_ROUTERS = (
    page_routes.router, film_routes.router, video_routes.router, operator_routes.router,
)  # fmt: skip
_OPENAPI = "/v1/openapi.json"
PUBLIC = page_routes.PUBLIC | operator_routes.PUBLIC | {_OPENAPI}
"""The addresses that want no token; any other one, also one that does not exist, wants one."""


def make_app(
    *,
    tokens: Tokens,
    limits: Limits,
    origins: tuple[str, ...],
    metrics: Metrics,
    lifespan: Any,
    converse: Callable[[WebSocket], Awaitable[None]],
) -> FastAPI:
    """Return the addresses of a server.

    Args:
        tokens: who may do what.
        limits: bounds on what others ask for.
        origins: origins of pages that may ask besides the server's own.
        metrics: are told of every answer.
        lifespan: begins and ends what is behind the addresses; sets ``state.films``,
            ``state.videos`` and ``state.profiler``.
        converse: talks with one viewer over a socket.
    """
    app = FastAPI(
        title="shotstream_rt",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=_OPENAPI,
        redirect_slashes=False,
    )
    app.state.tokens, app.state.metrics = tokens, metrics
    app.add_middleware(
        Gate, tokens=tokens, origins=origins, public=PUBLIC, body_bytes=limits.message_bytes
    )
    app.add_middleware(CountResponses, metrics=metrics)
    app.add_exception_handler(ShotStreamError, answers.answer_error)
    app.add_exception_handler(HTTPException, answers.answer_http_error)
    app.add_exception_handler(RequestValidationError, answers.answer_malformed)
    for router in _ROUTERS:
        app.include_router(router)
    app.state.routes = [route for router in _ROUTERS for route in router.routes]
    app.add_api_websocket_route("/v1/live", converse)
    return app
