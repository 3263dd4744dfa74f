"""A stand-in for Hugging Face's hub on this machine: lists repositories and serves their files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SMALL = 1000
"""Files from this size on are listed with SHA-256, smaller ones with Git's own digest."""


def git_digest(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked.

    Attributes:
        repositories: by name and commit: path to bytes.
        revisions: by name: branch or tag to commit.
        served: by path: other bytes than the listed ones.
        stall_after: by path: bytes after which the server says no more until ``go_on``.
        break_after: by path: bytes after which it breaks off, and how often it does so.
        status: by the beginning of an address: what it answers instead.
        requests: method, address and the header ``Range`` of every request.
    """

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)
    stall_after: dict[str, int] = field(default_factory=dict)
    break_after: dict[str, tuple[int, int]] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    listed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Add a commit and let a revision mean it; returns the commit."""
        seed = json.dumps([name, sorted((k, git_digest(v)) for k, v in files.items())])
        commit = hashlib.sha1(seed.encode(), usedforsecurity=False).hexdigest()
        self.repositories.setdefault(name, {})[commit] = files
        self.revisions.setdefault(name, {})[revision] = commit
        return commit

    def ranges(self, path: str) -> list[str | None]:
        """Return the ranges in which a file was asked for."""
        return [
            r for method, address, r in self.requests if method == "GET" and address.endswith(path)
        ]

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                address = unquote(urlsplit(self.path).path)
                hub.requests.append((self.command, address, self.headers.get("Range")))
                for front, status in hub.status.items():
                    if address.startswith(front):
                        return self._send(status, b"", {"X-Error-Message": "as the test wants"})
                if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", address):
                    return self._list(match[1], match[2] or "main")
                if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", address):
                    return self._file(match[1], match[2], match[3], body)
                return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

            def _list(self, name: str, revision: str) -> None:
                if name not in hub.revisions:
                    return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
                commit = hub.revisions[name].get(revision, revision)
                files = hub.repositories[name].get(commit)
                if files is None:
                    return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                siblings: list[dict[str, Any]] = []
                for path, data in files.items():
                    entry: dict[str, Any] = {
                        "rfilename": path, "size": len(data), "blobId": git_digest(data),
                    }  # fmt: skip
                    if len(data) >= SMALL:
                        sha = hashlib.sha256(data).hexdigest()
                        entry["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
                    siblings.append(entry)
                siblings = hub.listed.get(name, siblings)
                told = {"id": name, "modelId": name, "sha": commit, "siblings": siblings,
                        "private": False, "downloads": 0, "likes": 0, "tags": []}  # fmt: skip
                return self._send(200, json.dumps(told).encode(), {})

            def _file(self, name: str, commit: str, path: str, body: bool) -> None:
                data = hub.served.get(path, hub.repositories[name][commit][path])
                start = 0
                if wanted := self.headers.get("Range"):
                    start = int(wanted.removeprefix("bytes=").split("-")[0])
                part = data[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(part)))
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                if not body:
                    return
                stall = hub.stall_after.get(path)
                after, times = hub.break_after.get(path, (0, 0))
                if times:
                    hub.break_after[path] = (after, times - 1)
                    self.wfile.write(part[:after])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()
                    return
                if stall is not None and stall > start:
                    self.wfile.write(part[: stall - start])
                    self.wfile.flush()
                    hub.go_on.wait()
                    part = part[stall - start :]
                try:
                    self.wfile.write(part)
                except OSError:
                    self.close_connection = True

            def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
