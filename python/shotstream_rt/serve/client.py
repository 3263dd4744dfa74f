"""A client of the server without an event loop: see ``async_client.py``, which does the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from .async_client import AsyncClient, LiveFrame

_Result = TypeVar("_Result")


class Client:
    """One viewer of one film, without an event loop: ``AsyncClient`` on a thread of its own.

    Its methods may be called from any thread; frames are meant for one reader.

    Args:
        url: see ``AsyncClient.join``.
        options: see ``AsyncClient.join``; ``on_wait`` is called on the client's thread.

    Raises:
        ConfigError: see ``AsyncClient.join``.
        ServerError: the server refused.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="shotstream-client", daemon=True
        )
        self._thread.start()
        try:
            self._client = self._run(AsyncClient.join(url, **options))
        except BaseException:
            self._end()
            raise

    def __getattr__(self, name: str) -> Any:
        """Return an ask of ``AsyncClient`` as a plain method, or what it knows."""
        value = getattr(self._client, name)
        if asyncio.iscoroutinefunction(value):
            return lambda *arguments, **options: self._run(value(*arguments, **options))
        return value

    def frames(self, timeout_s: float | None = None) -> Iterator[LiveFrame]:
        """Yield frames as they come; see ``AsyncClient.frames``."""
        frames = self._client.frames(timeout_s)

        async def following() -> LiveFrame | None:
            return await anext(frames, None)

        while (frame := self._run(following())) is not None:
            yield frame

    def close(self) -> None:
        """Leave the film."""
        if self._thread.is_alive():
            self._run(self._client.close())
            self._end()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
