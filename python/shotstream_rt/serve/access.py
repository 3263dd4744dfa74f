"""What the token of a request over HTTP allows, asked for by the routes.

Every address wants a token unless it is listed as public; the gate sees to that before a route is
looked for. What a token allows there is up to the route, by one of the dependencies below.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request, Security
from fastapi.openapi.models import HTTPBase
from fastapi.security.base import SecurityBase

from .message import SESSION_ID
from .problems import ForbiddenError
from .tokens import Access

FilmId = Annotated[
    str, Path(alias="id", min_length=1, max_length=64, pattern=SESSION_ID, description="film")
]


class _Scheme(SecurityBase):
    """Says in the OpenAPI document how a token is shown; the gate has looked at it already."""

    def __init__(self, name: str, scheme: str, description: str) -> None:
        self.scheme_name = name
        self.model = HTTPBase(scheme=scheme, description=description)

    async def __call__(self) -> None:
        """Do nothing."""


_SCHEMES = (
    Security(_Scheme("token", "bearer", "a token of the server or of a film")),
    Security(_Scheme("password", "basic", "any name, with the token as password")),
)


def access_of(request: Request) -> Access:
    """Return what the request's token allows."""
    access: Access = request.state.access
    return access


Asking = Annotated[Access, Depends(access_of)]


def _directs(access: Asking) -> None:
    if not access.directs:
        raise ForbiddenError("token: it watches, and does not direct")


def _every_film(access: Asking) -> None:
    if access.film is not None:
        raise ForbiddenError("token: it is for one film, and this is about the server")


def _this_film(id: FilmId, access: Asking) -> None:
    if not access.is_for(id):
        raise ForbiddenError("token: it is for another film")


ANY = [*_SCHEMES]
"""Any token."""
SERVER_VIEWER = [*_SCHEMES, Depends(_every_film)]
"""A token of the server."""
SERVER_DIRECTOR = [*_SCHEMES, Depends(_every_film), Depends(_directs)]
"""The director's token of the server."""
FILM_VIEWER = [*_SCHEMES, Depends(_this_film)]
"""A token for the film that the address names."""
FILM_DIRECTOR = [*_SCHEMES, Depends(_this_film), Depends(_directs)]
"""A token that directs the film that the address names."""
