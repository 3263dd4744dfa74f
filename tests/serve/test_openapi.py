"""The OpenAPI document tells the truth: schemathesis asks what it allows and what it does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from shotstream_rt.serve.from_server import ErrorCode
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.server import Server

REQUESTS = int(os.environ.get("SHOTSTREAM_REQUESTS", "400"))
"""How many are made at least; ``.ci/run`` makes more."""

_FIXED, _GROWING = 300, 5
"""Requests that are made at any rate, and operations that there are endlessly many requests for."""


@pytest.fixture(scope="module")
def running(
    serving: Callable[..., AbstractContextManager[tuple[Server, str]]],
) -> Iterator[tuple[Server, str]]:
    """A server with little room, so that its answers when it is full are seen too."""
    with serving(Limits(sessions=2, videos=2, idle_pause_s=1)) as found:
        yield found


def schemathesis(server: Server, folder: Path, *words: str) -> int:
    """Run schemathesis with all its checks; return how many requests it made."""
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    run = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/v1/openapi.json",
         "--header", f"Authorization: Bearer {server.tokens.director}", "--checks", "all",
         "--seed", "1", "--suppress-health-check", "all", "--no-color", *words],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    (count,) = re.findall(r"(\d+) generated", run.stdout)
    return int(count)


@pytest.mark.slow
@pytest.mark.timeout(3600 if REQUESTS > 1000 else 600)
def test_every_answer_is_one_that_the_document_has(server: Server, tmp_path: Path) -> None:
    each = max(3, (REQUESTS - _FIXED) // _GROWING)
    # A live picture has no end, and a look takes as long as it is asked to: only their refusals can
    # be asked for in bulk.
    made = schemathesis(
        server, tmp_path, "--exclude-path-regex", "live.mp4|profile", "--max-examples", str(each)
    )
    made += schemathesis(
        server, tmp_path, "--include-path-regex", "profile", "--max-examples", "10",
        "--phases", "coverage,fuzzing", "--mode", "negative",
    )  # fmt: skip
    made += schemathesis(
        server, tmp_path, "--include-path-regex", "live.mp4", "--max-examples", "10",
        "--phases", "coverage,fuzzing",
    )  # fmt: skip
    assert made >= REQUESTS


def test_the_document_says_who_is_let_in_and_how_errors_look(server: Server) -> None:
    document = httpx.get(f"{server.address}/v1/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {scheme["scheme"] for scheme in schemes.values()} == {"bearer", "basic"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                if not status.startswith("2"):
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema["$ref"].endswith("/ErrorAnswer"), (method, path, status)
            open_to_all = path in ("/v1/schema", "/healthz", "/readyz")
            assert open_to_all or "401" in operation["responses"], (method, path)
            assert open_to_all or len(operation["security"]) == 2, (method, path)
            assert operation["description"], (method, path)
            assert "Args:" not in operation["description"], (method, path)
    problem = document["components"]["schemas"]["Problem"]
    assert set(problem["required"]) == {"code", "message", "retryable"}
    assert set(problem["properties"]["code"]["enum"]) == set(ErrorCode.__args__)  # type: ignore[attr-defined]
