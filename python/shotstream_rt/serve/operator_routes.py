"""The addresses for whoever runs a server: is it alive, is it ready, how is it doing.

``/healthz`` and ``/readyz`` tell nothing that a stranger may not know, and balancers have no token.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from .access import SERVER_DIRECTOR, SERVER_VIEWER
from .answers import Documented, documented
from .downloads import download
from .films import Films
from .metrics import PLAIN, Metrics
from .problems import UnavailableError
from .profiling import MOST_S, Profiler

PUBLIC = frozenset({"/healthz", "/readyz"})
"""These addresses want no token."""

router = APIRouter(tags=["operation"])

_TEXT: Documented = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
_LOOKED: Documented = {
    200: {
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/gzip": {"schema": {"type": "string", "format": "binary"}},
        }
    }
}


class Well(BaseModel):
    """A server that is well."""

    status: Literal["ok"] = "ok"


class Look(BaseModel):
    """How to look at a running server.

    Attributes:
        seconds: how long.
        timeline: answer with the timeline of torch's profiler, a JSON file in gzip, for
            ui.perfetto.dev.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    seconds: Annotated[float, Field(gt=0, le=MOST_S, allow_inf_nan=False)] = 3
    timeline: bool = False


@router.get("/healthz")
async def healthz() -> Well:
    """Answer, which shows that the server is alive."""
    return Well()


@router.get("/readyz", responses=documented("unavailable"))
async def readyz(request: Request) -> Well:
    """Tell whether films can be opened; a balancer sends nobody to a server that is not ready.

    A server with as many films as it may have is ready: its viewers come back to it.
    """
    _check_ready(request)
    return Well()


@router.get(
    "/metrics",
    response_class=Response,
    dependencies=SERVER_VIEWER,
    responses=_TEXT | documented("unauthorized", "forbidden"),
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    told: Metrics = request.app.state.metrics
    return Response(told.text(), media_type=PLAIN)


@router.post(
    "/v1/profile",
    response_class=Response,
    dependencies=SERVER_DIRECTOR,
    responses=_LOOKED
    | documented(
        "malformed", "too_large", "unauthorized", "forbidden", "full", "failed", "unavailable"
    ),
)
async def profile(request: Request, look: Look | None = None) -> Response:
    """Look at the films for some seconds, and return what they made and how."""
    _check_ready(request)
    profiler: Profiler = request.app.state.profiler
    look = look or Look()
    if not look.timeline:
        return JSONResponse(await profiler.look(look.seconds))
    with tempfile.TemporaryDirectory(prefix="shotstream-profile-") as folder:
        file = Path(folder) / "timeline.json.gz"
        await profiler.look(look.seconds, file)
        descriptor = os.open(file, os.O_RDONLY)  # outlives the folder
    size_bytes, contents = os.fstat(descriptor).st_size, _contents(descriptor)
    return download(file.name, size_bytes, contents, "application/gzip")


def _check_ready(request: Request) -> None:
    """Refuse what no film can be opened for now.

    Raises:
        UnavailableError: the model is not loaded, or the server ends.
    """
    films: Films = request.app.state.films
    if films.unready is not None:
        raise UnavailableError(films.unready)


def _contents(descriptor: int) -> Iterator[bytes]:
    with open(descriptor, "rb") as file:
        while data := file.read(1 << 16):
            yield data
