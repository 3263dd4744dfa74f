"""The servers behind the door, and which of them is asked for what."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .server import Server

CONNECT_S = 5
"""How long one may take to accept a connection."""
GONE = "the server of this film has gone; another one goes on with it"

_TRIES = 5
_AGAIN_S = 0.2
"""How long a second try waits; a further one waits twice as long as the one before."""


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


Look = Callable[[], Awaitable[Sequence[Station]]]
"""Asks the servers to describe themselves; those that do not answer are left out."""


def waits() -> list[float]:
    """Return how many seconds to wait before each try to reach a server."""
    return [0.0, *(_AGAIN_S * 2**n for n in range(_TRIES - 1))]
