"""Running a server: its port, its beginning and its end. ``app.py`` has its addresses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, WebSocket

from .app import make_app
from .conversation import FORBIDDEN, Conversation
from .film_settings import FilmSettings
from .films import Films
from .from_server import Error
from .limits import Limits
from .listener import Listener
from .metrics import Metrics
from .profiling import Profiler
from .store import Store
from .tokens import Tokens, origin_allowed
from .videos import Videos

_FAREWELL_S = 1
"""How long sockets may take to be told that the server ends."""
_LOOK_S = 0.02


class Server:
    """One process's server.

    Args:
        settings: how films are made.
        tokens: who may do what; default: a new secret.
        limits: bounds on what others ask for.
        origins: origins of pages that may connect besides the server's own.
        store: keeps the films, so that another process can go on with them; default: none does.
    """

    def __init__(
        self,
        settings: FilmSettings | None = None,
        *,
        tokens: Tokens | None = None,
        limits: Limits | None = None,
        origins: tuple[str, ...] = (),
        store: Store | None = None,
    ) -> None:
        self.tokens = tokens or Tokens()
        self._settings, self._limits = settings or FilmSettings(), limits or Limits()
        self._origins, self._store = origins, store
        self.metrics = Metrics()
        self._listener: Listener | None = None
        self._failed: BaseException | None = None
        self._sockets = 0
        self.app = make_app(
            tokens=self.tokens,
            limits=self._limits,
            origins=origins,
            metrics=self.metrics,
            lifespan=self._lifespan,
            converse=self._converse,
        )

    def listen(self, host: str, port: int) -> str:
        """Take a port and return the address of the page, with the token in its fragment.

        Args:
            host: name or address to listen on.
            port: 0 takes any free one.

        Raises:
            ConfigError: the port or the address cannot be taken.
        """
        self._listener = Listener(host, port)
        return f"{self.address}/#token={self.tokens.director}"

    @property
    def address(self) -> str:
        """The address of the server without a token; once it listens."""
        assert self._listener is not None, "listen first"
        return self._listener.address

    def run(self) -> None:
        """Serve until the process is asked to end, or ``stop`` is called.

        Then films are no longer opened, those that are finish their chunk, are saved and closed,
        and those who watch are told. A second request to end does not wait for that.

        Raises:
            ShotStreamError: the model cannot be loaded.
        """
        assert self._listener is not None, "listen first"
        self._listener.run(self.app, self._limits, self._drain)
        if self._failed is not None:
            raise self._failed

    async def _drain(self) -> None:
        """Close the films, and let every socket be told so before it is closed."""
        await self.films.drain()
        end_s = time.monotonic() + _FAREWELL_S
        while self._sockets and time.monotonic() < end_s:
            await asyncio.sleep(_LOOK_S)

    def stop(self) -> None:
        """Ask ``run`` to end; from any thread."""
        if self._listener is not None:
            self._listener.stop()

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.films = Films(self._settings, self._limits, self.metrics, self._store)
        self.metrics.watch(self.films)
        self.profiler = Profiler(self.films)
        self.videos = Videos(self.films, self._limits)
        app.state.films, app.state.videos = self.films, self.videos
        app.state.profiler = self.profiler
        self.films.model.load().add_done_callback(self._look_at_model)
        watching = asyncio.create_task(self.films.watch_over())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await self.videos.close()
            await self.films.close()

    def _look_at_model(self, loading: Any) -> None:
        """End the server if there is no model: it has nothing to show."""
        ends = self.films.ending or loading.cancelled()  # its loading may have been given up
        if not ends and loading.exception() is not None:
            self._failed = loading.exception()
            self.stop()

    async def _converse(self, socket: WebSocket) -> None:
        await socket.accept()
        headers = socket.headers
        if not origin_allowed(headers.get("origin"), headers.get("host"), self._origins):
            error = Error(code="forbidden", message="origin: not that of this server")
            await socket.send_text(error.model_dump_json())
            await socket.close(FORBIDDEN)
            return
        self._sockets += 1
        try:
            await Conversation(socket, self.films, self.tokens).run()
        finally:
            self._sockets -= 1
