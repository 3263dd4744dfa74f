"""A server in this process, on a free port, with nano behind it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.film_settings import FilmSettings
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.server import Server
from shotstream_rt.serve.store import Store
from shotstream_rt.serve.tokens import Tokens

from ..patience import PATIENCE_S


@contextmanager
def _serving(
    limits: Limits | None = None,
    model: str = "nano",
    origins: tuple[str, ...] = (),
    store: Store | None = None,
    tokens: Tokens | None = None,
    **settings: Any,
) -> Iterator[tuple[Server, str]]:
    """Run a server on a thread of its own while the body runs; gives it and its page's address.

    All films play, however busy the machine is, unless a test says how many.
    """
    made = FilmSettings(**{"model": model, "threads": 1, "seed": 7, "capacity": 100, **settings})
    server = Server(made, limits=limits, origins=origins, tokens=tokens, store=store)
    url = server.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, name="test-server")
    thread.start()
    try:
        while thread.is_alive():
            try:
                httpx.get(f"{server.address}/v1/schema")
                break
            except httpx.TransportError:
                time.sleep(0.02)
        yield server, url
    finally:
        server.stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the server did not end"


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[tuple[Server, str]]]:
    """Starts servers: ``with serving(limits) as (server, url)``."""
    if not (NANO_FOLDER / "student.json").is_file():
        pytest.skip("this checkout has no nano weights")
    return _serving


@pytest.fixture(scope="module")
def running(
    serving: Callable[..., AbstractContextManager[tuple[Server, str]]],
) -> Iterator[tuple[Server, str]]:
    """One server for the tests of a file."""
    with serving() as found:
        yield found


@pytest.fixture
def server(running: tuple[Server, str]) -> Server:
    """The server of this file's tests."""
    return running[0]


@pytest.fixture
def url(running: tuple[Server, str]) -> str:
    """Address of its page, with the director's token."""
    return running[1]


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of its addresses, with the director's token."""
    headers = {"Authorization": f"Bearer {server.tokens.director}"}
    with httpx.Client(base_url=server.address, headers=headers, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, in which the name phone.test leads to this machine."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required",
                "--host-resolver-rules=MAP phone.test 127.0.0.1",
            ],
        )  # fmt: skip
        yield found
        found.close()
