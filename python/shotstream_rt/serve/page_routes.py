"""The page and the schema of the messages: no secrets, and they show nothing without a token."""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from . import protocol

_PAGE = {
    "/": ("index.html", "text/html"),
    "/desk.js": ("desk.js", "text/javascript"),
    "/elements.js": ("elements.js", "text/javascript"),
    "/pictures.js": ("pictures.js", "text/javascript"),
    "/player.js": ("player.js", "text/javascript"),
    "/desk.css": ("desk.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

PUBLIC = frozenset({*_PAGE, "/v1/schema"})
"""These addresses want no token."""

router = APIRouter()


def _add(path: str, content: bytes, kind: str) -> None:
    @router.get(path, include_in_schema=False)
    def page() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8")


for _path, (_name, _kind) in _PAGE.items():
    _add(_path, (resources.files("shotstream_rt.serve") / "page" / _name).read_bytes(), _kind)


@router.get("/v1/schema")
def schema() -> dict[str, Any]:
    """Return the JSON Schema of every message of the socket."""
    return protocol.schema()
