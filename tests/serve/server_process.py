"""A server in a process of its own that may be killed, and a viewer who comes back to it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from shotstream_rt.serve.fragments import read_fragment

from ..patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789-abcdef"


class ServerProcess:
    """One server process on a store.

    Args:
        store: its folder.
        words: further options of ``serve``.
    """

    def __init__(self, store: Path, *words: str) -> None:
        token = store.with_name("token")
        token.write_text(TOKEN)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.serve.lossless_server", "--token-file", str(token),
             "--store", str(store), *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.address = json.loads(line)["address"]
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.http = httpx.Client(base_url=self.address, headers=headers, timeout=PATIENCE_S)

    def open(self, seed: int) -> str:
        """Open a film and return its id."""
        return str(self.http.post("/v1/sessions", json={"seed": seed}).json()["id"])

    def kill(self) -> None:
        """End the process where it is."""
        self.process.kill()
        self.process.communicate()
        self.http.close()

    def end(self) -> str:
        """Ask the process to end, and return what it wrote to standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=PATIENCE_S)
        self.http.close()
        assert self.process.returncode == 0, err
        return err


@contextmanager
def server_process(store: Path, *words: str) -> Iterator[ServerProcess]:
    """Run a server process; it is killed at the end unless it has ended."""
    server = ServerProcess(store, *words)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


class Watcher:
    """A viewer who comes back after a lost connection, and knows what it has seen.

    Args:
        token: shown to the server.

    Attributes:
        last: number of the last frame that it has.
        twice: how many frames it was sent again, in each connection that went on from a lost one.
        heard: every message, by type.
    """

    def __init__(self, token: str = TOKEN) -> None:
        self._token = token
        self.last = -1
        self.twice: list[int] = []
        self.heard: dict[str, list[dict[str, Any]]] = {}
        self._open = ExitStack()
        self._socket: ClientConnection | None = None
        self._head = False

    def join(self, address: str, film: str) -> dict[str, Any]:
        """Connect to a server; goes on behind the last frame seen. Returns the welcome."""
        self.leave()
        address = address.replace("http", "ws") + "/v1/live"
        connecting = connect(address, max_size=2**24, compression=None)
        self._socket = self._open.enter_context(connecting)
        hello: dict[str, Any] = {"type": "hello", "token": self._token, "session": film}
        if self.last >= 0:
            hello["after"] = self.last
        self._socket.send(json.dumps(hello))
        self._head = False
        welcome = self._until("welcome")
        if self.last >= 0:
            self.twice.append(max(0, self.last + 1 - welcome["frame"]))
        return welcome

    def leave(self) -> None:
        """Disconnect."""
        self._open.close()

    def ask(self, kind: str, id: str | None = None, **fields: Any) -> dict[str, Any]:
        """Ask for something and return the answer."""
        id = id or secrets.token_hex(4)
        assert self._socket is not None
        self._socket.send(json.dumps({"type": kind, "id": id, **fields}))
        while True:
            message = self._read()
            if message.get("id") == id and message["type"] in ("accepted", "error"):
                return message

    def see(self, frame: int) -> None:
        """Watch until a frame has come that has this number or a later one."""
        while self.last < frame:
            self._read()

    def until_ended(self) -> dict[str, Any]:
        """Watch to the end and return why it ended."""
        ended: dict[str, Any] = {}
        try:
            while True:
                message = self._read()
                if message["type"] == "ended":
                    ended = message
        except ConnectionClosed:
            return ended

    def _until(self, kind: str) -> dict[str, Any]:
        while (message := self._read())["type"] != kind:
            assert message["type"] != "error", message
        return message

    def _read(self) -> dict[str, Any]:
        """Read one message or fragment; a fragment is the message ``frame``."""
        assert self._socket is not None
        data = self._socket.recv(timeout=PATIENCE_S)
        if isinstance(data, str):
            message: dict[str, Any] = json.loads(data)
            self.heard.setdefault(message["type"], []).append(message)
            return message
        if not self._head:
            self._head = True
            return {"type": "head"}
        ticks, _ = read_fragment(data)
        number = ticks // 1024
        assert number <= self.last + 1, f"frame {self.last + 1} was never sent"
        self.last = max(self.last, number)
        return {"type": "frame", "frame": number}
