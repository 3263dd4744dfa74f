"""A port of this machine, and an application that answers on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ..errors import ConfigError
from .connections import PING_S, prepare
from .limits import Limits


class Listener:
    """Takes a port first and answers on it later, so that a mistake is told before work begins.

    Args:
        host: name or address to listen on.
        port: 0 takes any free one.

    Raises:
        ConfigError: the port or the address cannot be taken.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=128)
            prepare(self._socket)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--host {host} --port {port}: cannot be listened on ({error}); another program "
                "may have the port: --port 0 takes a free one"
            ) from error
        self._uvicorn: uvicorn.Server | None = None

    @property
    def address(self) -> str:
        """Where programs find it, such as ``http://127.0.0.1:8716``."""
        host, port = self._socket.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
            host, f"[{host}]" if ":" in host else host
        )
        return f"http://{shown}:{port}"

    def run(
        self,
        app: ASGIApp,
        limits: Limits,
        drain: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Answer until the process is asked to end, or ``stop`` is called.

        Args:
            app: the application.
            limits: of its sockets.
            drain: is done then, before any connection is closed; a second request to end does not
                wait for it.
        """
        config = uvicorn.Config(
            app,
            ws="websockets-sansio",
            ws_max_size=limits.message_bytes,
            ws_per_message_deflate=False,
            ws_ping_interval=PING_S,
            ws_ping_timeout=limits.viewer_gone_s,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        self._uvicorn = _Uvicorn(config, drain)
        self._uvicorn.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ask ``run`` to end; from any thread."""
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    def close(self) -> None:
        """Give the port back, where ``run`` was not called."""
        self._socket.close()


class _Uvicorn(uvicorn.Server):
    """Uvicorn, which still answers while it drains.

    Args:
        config: of it.
        drain: see ``Listener.run``.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], Coroutine[Any, Any, None]] | None
    ) -> None:
        super().__init__(config)
        self._drain = drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close all connections."""
        if self._drain is not None:
            draining = asyncio.create_task(self._drain())
            while not (draining.done() or self.force_exit):
                await asyncio.wait({draining}, timeout=0.1)
        await super().shutdown(sockets)
