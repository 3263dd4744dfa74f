"""One who watches a film of a server, as far as the server can tell, and notes what comes and when.

It speaks the page's protocol over a real socket and reads the number of every frame from its
fragment without decoding it, so that one process can be many.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect

from shotstream_rt.errors import ConfigError
from shotstream_rt.serve.fragments import read_fragment, timescale_of

_KEPT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is, and the token that lets one direct.

    Attributes:
        http: such as ``http://127.0.0.1:8716``.
        token: the director's.
    """

    http: str
    token: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Take an address apart as ``serve`` prints it, with the token in its fragment.

        Raises:
            ConfigError: it is not one, or has no token.
        """
        parts = urlsplit(url)
        token = next(iter(parse_qs(parts.fragment).get("token", [])), None)
        if parts.scheme not in ("http", "https") or not parts.netloc or token is None:
            raise ConfigError(
                f"url: got {url.partition('#')[0]!r}, wanted http://HOST:PORT/#token=TOKEN, the "
                "address that `serve` prints"
            )
        return cls(http=f"{parts.scheme}://{parts.netloc}", token=token)

    @property
    def socket(self) -> str:
        """The address of the socket."""
        return f"ws{self.http.removeprefix('http')}/v1/live"


@dataclass(slots=True)
class PlayerLog:
    """What reached a player; all times are of ``time.monotonic``, in seconds.

    Attributes:
        begun_s: when it began to connect; of who directs, when it sent its first cut.
        numbers: numbers of the frames that came.
        arrivals_s: when each of them came.
        rate_hz: frames per second of the film.
        skipped: frames that the server left out for it.
        places: its places in the queue, as it was told them.
        cuts: of each later cut that is shown, when it was asked for and its first frame.
        errors: what went wrong, one line each.
        head: beginning of the stream, where it was to be kept.
        fragments: first frames of the stream, where they were to be kept.
    """

    begun_s: float = 0.0
    numbers: array[int] = field(default_factory=lambda: array("q"))
    arrivals_s: array[float] = field(default_factory=lambda: array("d"))
    rate_hz: int = 0
    skipped: int = 0
    places: list[int] = field(default_factory=list)
    cuts: list[tuple[float, int]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    head: bytes = b""
    fragments: list[bytes] = field(default_factory=list)

    @property
    def first_frame_ms(self) -> float | None:
        """Milliseconds until the first frame; None while there is none."""
        return 1e3 * (self.arrivals_s[0] - self.begun_s) if self.arrivals_s else None


class Player:
    """A player; ``run`` watches until ``stop``.

    Args:
        address: of the server.
        session: id of the film.
        texts: what who directs asks for, in turn; empty for who only watches.
        keep_frames: how many frames of the stream are kept as they came.
    """

    def __init__(
        self, address: Address, session: str, *, texts: tuple[str, ...] = (), keep_frames: int = 0
    ) -> None:
        self.log = PlayerLog()
        self.noticed = asyncio.Event()
        """Set once it has a frame, a place in the queue or an error."""
        self._address, self._session = address, session
        self._texts, self._keep = itertools.cycle(texts) if texts else None, keep_frames
        self._socket: ClientConnection | None = None
        self._asked_s: dict[str, float] = {}
        self._ids = itertools.count()
        self._ticks = 0
        self._stopping = False

    async def run(self) -> None:
        """Watch until ``stop`` is called or the connection ends, which is an error."""
        self.log.begun_s = time.monotonic()
        try:
            async with connect(self._address.socket, max_size=2**24, compression=None) as socket:
                self._socket = socket
                hello = {"type": "hello", "token": self._address.token, "session": self._session}
                await socket.send(json.dumps(hello))
                async for data in socket:
                    if isinstance(data, bytes):
                        self._see(data)
                    else:
                        await self._hear(json.loads(data))
            if not (self._stopping or self.log.errors):
                self._fail("the server closed the socket")
        except (OSError, ValueError, ConfigError, websockets.WebSocketException) as error:
            if not self._stopping:
                self._fail(f"{type(error).__name__}: {error}")

    async def stop(self) -> None:
        """Leave the film."""
        self._stopping = True
        if self._socket is not None:
            await self._socket.close()

    async def cut(self) -> None:
        """Ask for the next shot, now."""
        assert self._socket is not None and self._texts is not None, "it does not direct"
        id = f"cut-{next(self._ids)}"
        self._asked_s[id] = time.monotonic()
        ask = {"type": "cut", "id": id, "text": next(self._texts)}
        with suppress(websockets.ConnectionClosed):  # ``run`` tells why
            await self._socket.send(json.dumps(ask))

    def _see(self, data: bytes) -> None:
        log = self.log
        if not self._ticks:
            self._ticks = timescale_of(data) // log.rate_hz
            log.head = data
            return
        now_s = time.monotonic()
        time_ticks, _ = read_fragment(data)
        log.numbers.append(time_ticks // self._ticks)
        log.arrivals_s.append(now_s)
        if len(log.fragments) < self._keep and sum(map(len, log.fragments)) < _KEPT_BYTES:
            log.fragments.append(data)
        self.noticed.set()

    async def _hear(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "welcome", "frame_rate_hz": rate_hz}:
                self.log.rate_hz = rate_hz
                if self._texts is not None:
                    self.log.begun_s = time.monotonic()
                    await self.cut()
                    self._asked_s.clear()  # the first one begins the film and cuts nothing
            case {"type": "queue", "position": place}:
                self.log.places.append(place)
                self.noticed.set()
            case {"type": "applied", "id": id, "frame": frame} if id in self._asked_s:
                self.log.cuts.append((self._asked_s.pop(id), frame))
            case {"type": "skipped", "frames": frames}:
                self.log.skipped += frames
            case {"type": "error" | "failed" | "ended" as kind, "message": text}:
                if not self._stopping:
                    self._fail(f"{kind}: {text}")

    def _fail(self, text: str) -> None:
        self.log.errors.append(text)
        self.noticed.set()
