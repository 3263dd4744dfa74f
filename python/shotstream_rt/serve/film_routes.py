"""The addresses of films, and of the tokens that are for one film alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from .access import (
    ANY,
    FILM_DIRECTOR,
    FILM_VIEWER,
    SERVER_DIRECTOR,
    Asking,
    FilmId,
)
from .answers import documented
from .downloads import MP4, MP4_ANSWER, attachment, download
from .films import Films
from .from_server import ErrorCode, Stats
from .live_film import LiveFilm
from .message import WHOLE, Seed
from .problems import FullError
from .public_names import public_directions, public_stats
from .route import Route
from .tokens import Access, Role, Tokens
from .viewer import Viewer

_LONGEST_S = 366 * 24 * 3600

OPENING: tuple[ErrorCode, ...] = ("full", "failed", "unavailable")
"""What may be answered where a film is opened again from the store."""

router = APIRouter(prefix="/v1/sessions", tags=["films"], route_class=Route)


class NewFilm(BaseModel):
    """What a new film begins with.

    Attributes:
        seed: noise seed; default: the next one.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: Seed | None = None


class FilmAnswer(Stats):
    """A film: its id, and how it is doing."""

    id: str
    type: SkipJsonSchema[Literal["stats"]] = Field(default="stats", exclude=True)


class FilmDetails(FilmAnswer):
    """A film with what was chosen when it was opened and what its session measured.

    Attributes:
        stats: of the session.
        saving: what saving it has cost; null without a store.
    """

    stats: dict[str, Any]
    saving: dict[str, float] | None


class FilmList(BaseModel):
    """The films that the token is for.

    Attributes:
        sessions: those that are open, the oldest first.
        stored: ids of those in the store that this process has not opened.
    """

    sessions: list[FilmAnswer]
    stored: list[str]


class NewToken(BaseModel):
    """What a new token allows.

    Attributes:
        role: ``viewer`` only watches.
        seconds: from now until it ends; default: it ends with the film.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Role = "viewer"
    seconds: Annotated[int, Field(ge=1, le=_LONGEST_S), WHOLE] | None = None


class TokenAnswer(BaseModel):
    """A token of one film.

    Attributes:
        token: the token.
        role: what it allows.
        session: id of the film.
        expires_at: Unix time in seconds from which on it allows nothing; null for no end.
        link: the page with the film, behind the server's address.
    """

    token: str
    role: Role
    session: str
    expires_at: int | None
    link: str


@router.get("", dependencies=ANY, responses=documented("unauthorized"))
async def list_films(request: Request, access: Asking) -> FilmList:
    """Return the films that the token is for."""
    films = _films(request)
    return FilmList(
        sessions=[_described(film) for film in films.all() if access.is_for(film.id)],
        stored=[id for id in await films.stored() if access.is_for(id)],
    )


@router.post(
    "",
    status_code=201,
    dependencies=SERVER_DIRECTOR,
    responses=documented(
        "malformed", "refused", "too_large", "unauthorized", "forbidden", "full", "failed",
        "unavailable",
    ),
)  # fmt: skip
async def open_film(request: Request, access: Asking, new: NewFilm | None = None) -> FilmAnswer:
    """Open a film; where others play as many as can, it sleeps until it is watched.

    Args:
        request: which server it reached.
        access: of who asks, for whom the film counts.
        new: what the film begins with; default: nothing.
    """
    return _described(await _films(request).open(new.seed if new else None, access.name))


@router.get(
    "/{id}",
    dependencies=FILM_VIEWER,
    responses=documented("malformed", "unauthorized", "forbidden", "not_found", *OPENING),
)
async def film(request: Request, id: FilmId) -> FilmDetails:
    """Return how a film is doing."""
    found = await _films(request).reach(id)
    told = _described(found).model_dump()
    saving = None if found.saving is None else asdict(found.saving)
    return FilmDetails(**told, stats=public_stats(found.times), saving=saving)


@router.delete(
    "/{id}",
    status_code=204,
    dependencies=FILM_DIRECTOR,
    responses=documented("malformed", "unauthorized", "forbidden", "not_found", *OPENING),
)
async def close_film(request: Request, id: FilmId) -> None:
    """Close a film, and delete it from the store."""
    await _films(request).delete(id)


@router.post(
    "/{id}/tokens",
    status_code=201,
    dependencies=FILM_DIRECTOR,
    responses=documented(
        "malformed", "too_large", "unauthorized", "forbidden", "not_found", *OPENING
    ),
)
async def make_token(
    request: Request, id: FilmId, access: Asking, new: NewToken | None = None
) -> TokenAnswer:
    """Make a token of one film; it does not outlive the token that asked for it.

    Args:
        request: which server it reached.
        id: of the film.
        access: of who asks.
        new: what the token allows; default: to watch, until the film ends.
    """
    found, new = await _films(request).reach(id), new or NewToken()
    tokens: Tokens = request.app.state.tokens
    end = expiry(access, new.seconds)
    token = tokens.mint(new.role, found.id, expires_at=end)
    link = f"/#{urlencode({'token': token, 'session': found.id})}"
    return TokenAnswer(token=token, role=new.role, session=found.id, expires_at=end, link=link)


@router.get(
    "/{id}/live.mp4",
    response_class=Response,
    dependencies=FILM_VIEWER,
    responses=MP4_ANSWER
    | documented("malformed", "unauthorized", "forbidden", "not_found", *OPENING),
)
async def live(request: Request, id: FilmId, access: Asking) -> Response:
    """Return the picture from now on, without end.

    Args:
        request: which server it reached.
        id: of the film.
        access: of who asks; the picture ends when that does.
    """
    films = _films(request)
    found = await films.awake(id)
    if films.viewers >= films.limits.viewers:
        raise FullError(f"viewers: there are {films.limits.viewers} already")
    viewer = Viewer(films.limits, films.metrics)
    return StreamingResponse(_live(found, viewer, access), media_type=MP4)


@router.get(
    "/{id}/film.mp4",
    response_class=Response,
    dependencies=FILM_VIEWER,
    responses=MP4_ANSWER
    | documented("malformed", "unauthorized", "forbidden", "not_found", *OPENING),
)
async def film_file(request: Request, id: FilmId) -> Response:
    """Return the film as it stands."""
    size_bytes, contents = (await _films(request).reach(id)).file()
    return download(f"film-{id}.mp4", size_bytes, contents)


@router.get(
    "/{id}/film.json",
    dependencies=FILM_VIEWER,
    responses=documented(
        "malformed", "unauthorized", "forbidden", "not_found", "not_ready", *OPENING
    ),
)
async def directions(request: Request, response: Response, id: FilmId) -> dict[str, Any]:
    """Return the film's directions, which make the same film again.

    Args:
        request: which server it reached.
        response: gets the name of the file.
        id: of the film.
    """
    found = await _films(request).reach(id)
    response.headers.update(attachment(f"film-{id}.json"))
    return public_directions(found.directions())


def expiry(access: Access, seconds: int | None = None) -> int | None:
    """Return when a token ends that somebody asks for.

    Args:
        access: of who asks.
        seconds: from now; None for no end.

    Returns:
        Unix time in seconds, at most that at which the asking token ends.
    """
    end = None if seconds is None else int(time.time()) + seconds
    ends = [time_s for time_s in (end, access.expires_at) if time_s is not None]
    return min(ends, default=None)


async def _live(film: LiveFilm, viewer: Viewer, access: Access) -> AsyncIterator[bytes]:
    """Yield head and fragments for as long as somebody reads and may."""
    film.join(viewer)
    try:
        while (item := await viewer.next()) is not None:
            left_s = access.left_s()
            if left_s is not None and left_s <= 0:
                return
            if isinstance(item, bytes):
                yield item
    finally:
        film.leave(viewer)


def _films(request: Request) -> Films:
    films: Films = request.app.state.films
    return films


def _described(film: LiveFilm) -> FilmAnswer:
    return FilmAnswer(id=film.id, **film.stats().model_dump(exclude={"type"}))
