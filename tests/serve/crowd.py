"""Viewers of a film that behave badly, and some that do not, over real sockets."""

from __future__ import annotations

import json
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from shotstream_rt.serve.fragments import read_fragment

from ..patience import PATIENCE_S

_HANDSHAKE = (
    "GET /v1/live HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_FRAME_S = 1 / 16


def masked(text: str) -> bytes:
    """A short text as a WebSocket frame of a client, with a mask of zeros."""
    assert len(text) < 126
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()


def narrow(address: str) -> socket.socket:
    """Connect with little room for what comes, so that who does not read it is noticed soon."""
    there = socket.socket()
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    there.connect((urlsplit(address).hostname, urlsplit(address).port))
    return there


def raw_viewer(address: str, token: str) -> socket.socket:
    """Join a film over a socket of which nothing more is read.

    Args:
        address: of the server, ``http://HOST:PORT``.
        token: to show.
    """
    there, host = narrow(address), urlsplit(address).netloc
    hello = json.dumps({"type": "hello", "token": token})
    there.sendall(_HANDSHAKE.format(host=host).encode())
    _await(there, b"\r\n\r\n")  # what comes with the handshake is lost
    there.sendall(masked(hello))
    return there


def _await(there: socket.socket, wanted: bytes) -> None:
    """Read up to something that is surely sent."""
    there.settimeout(PATIENCE_S)
    said = b""
    while wanted not in said:
        data = there.recv(256)
        assert data, f"the server ended the connection before {wanted!r}"
        said += data


def reset(there: socket.socket) -> None:
    """Vanish, once welcome, as a process that is killed does: without a goodbye."""
    _await(there, b'"welcome"')
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    there.close()


@contextmanager
def badly_behaved(address: str, token: str, *, silent: int, vanishing: int) -> Iterator[None]:
    """While the body runs: viewers that read nothing, that vanish, and one of a byte a second.

    Of those that vanish, half are reset, and half read everything and answer no ping, as behind a
    proxy that does not notice.

    Args:
        address: of the server.
        token: to show.
        silent: how many stop reading.
        vanishing: how many vanish.
    """
    quiet = [raw_viewer(address, token) for _ in range(silent)]
    gone = [raw_viewer(address, token) for _ in range(vanishing)]
    slow = raw_viewer(address, token)
    over = threading.Event()

    def read() -> None:
        waiting, mute = selectors.DefaultSelector(), gone[::2]
        for there in mute:
            waiting.register(there, selectors.EVENT_READ)
        next_s = time.monotonic()
        while not over.wait(0.02):
            for key, _ in waiting.select(0):
                with suppress(OSError):
                    if not key.fileobj.recv(1 << 16):  # type: ignore[union-attr]
                        waiting.unregister(key.fileobj)
            if time.monotonic() > next_s:
                next_s += 1
                with suppress(OSError):
                    slow.recv(1)
        waiting.close()

    reader = threading.Thread(target=read, name="bad-viewers")
    reader.start()
    try:
        for there in gone[1::2]:
            reset(there)
        yield
    finally:
        over.set()
        reader.join(PATIENCE_S)
        for there in (*quiet, *gone[::2], slow):
            there.close()


class GoodViewer:
    """One who reads all that comes, on a thread of its own, until it is closed.

    Args:
        address: of the server.
        token: to show.

    Attributes:
        ticks: time of each frame on the stream's clock.
        arrivals_s: when each frame came, on a monotonic clock.
        skipped: frames that the server says it did not send.
    """

    def __init__(self, address: str, token: str) -> None:
        self.ticks: list[int] = []
        self.arrivals_s: list[float] = []
        self.skipped = 0
        self._address, self._hello = address, json.dumps({"type": "hello", "token": token})
        self._over = False
        self._thread = threading.Thread(target=self._read, name="good-viewer")
        self._thread.start()

    def _read(self) -> None:
        head, place = False, f"{self._address.replace('http', 'ws')}/v1/live"
        with (
            suppress(ConnectionClosed),
            connect(place, max_size=2**24, compression=None) as there,
        ):
            there.send(self._hello)
            while not self._over:
                data = there.recv()
                if isinstance(data, str):
                    told: dict[str, Any] = json.loads(data)
                    self.skipped += told["frames"] if told["type"] == "skipped" else 0
                elif head:
                    self.arrivals_s.append(time.monotonic())
                    self.ticks.append(read_fragment(data)[0])
                head = head or isinstance(data, bytes)

    def close(self) -> None:
        """Leave the film."""
        self._over = True  # it is told how the film is doing once a second
        self._thread.join(PATIENCE_S)

    def play_ratio(self, begin_s: float, end_s: float, *, buffered: int = 3) -> float:
        """Return the share of a time in which a player's picture would have gone on.

        Args:
            begin_s: of the time, on the clock of ``arrivals_s``.
            end_s: of the time.
            buffered: frames that the player has ready before it begins.
        """
        came_s = [at_s for at_s in self.arrivals_s if begin_s <= at_s < end_s]
        due_s, stalled_s = came_s[buffered], 0.0
        for at_s in came_s[buffered:]:
            stalled_s += max(0.0, at_s - due_s)
            due_s = max(due_s, at_s) + _FRAME_S
        return 1 - stalled_s / (came_s[-1] - came_s[buffered])
