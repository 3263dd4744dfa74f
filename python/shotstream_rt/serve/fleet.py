"""What runs on a Ray cluster: the same servers, and one door."""

from __future__ import annotations

from dataclasses import dataclass

from .film_settings import FilmSettings
from .limits import Limits
from .store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """How many servers there are, how each makes films, and where the door listens.

    Attributes:
        settings: how films are made.
        secret: the director's token.
        limits: of each server.
        origins: of pages that may connect besides the door's own.
        store: of all servers; what it is in, every machine of the cluster sees.
        fewest: servers that there always are.
        most: servers that there may be.
        host: address that the door listens on.
        port: likewise; 0 takes any free one.
        json_logs: whether the processes write JSON to their logs.
        alone: whether this machine is the whole cluster, so that nobody else has to reach servers.
    """

    settings: FilmSettings
    secret: str
    limits: Limits
    store: Store
    origins: tuple[str, ...] = ()
    fewest: int = 1
    most: int = 1
    host: str = "127.0.0.1"
    port: int = 8716
    json_logs: bool = False
    alone: bool = True
