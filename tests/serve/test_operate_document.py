"""The examples of docs/operate.md about HTTP and tokens run as they stand there."""

from __future__ import annotations

import functools
import http.server
import io
import json
import re
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import av
import pytest

from shotstream_rt.cli import main
from shotstream_rt.serve.answers import STATUS
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.from_server import RETRYABLE
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.server import Server

from ..patience import PATIENCE_S, wait_for
from .test_tokens import addresses

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/operate.md"
CAT = "Wide shot: a red cat walks right on a beach."


def example(language: str, mark: str) -> str:
    """Return the one example in which a text occurs."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if mark in block]
    return str(found)


def function(name: str) -> Callable[..., Any]:
    """Run the example that defines a function, and return the function."""
    names: dict[str, Any] = {}
    exec(example("python", f"def {name}("), names)
    found: Callable[..., Any] = names[name]
    return found


def test_a_link_that_directs_and_one_that_watches(server: Server) -> None:
    director, viewer = function("invite")(server.address, server.tokens.director)
    with Client(director, video=False) as client, Client(viewer, video=False) as other:
        assert (client.welcome.role, other.welcome.role) == ("director", "viewer")
        assert client.session == other.session


def test_a_video(server: Server) -> None:
    file = function("video")(server.address, server.tokens.director, {"shots": [CAT]})
    container: Any = av.open(io.BytesIO(file))
    with container:
        assert len(list(container.decode(video=0))) == 81


def test_the_client_that_comes_back(url: str) -> None:
    seen = function("watch")(url, 20)
    assert seen == list(range(seen[0], seen[0] + 20))


def test_the_doctor(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(example("sh", " doctor "))
    assert words[:3] == ["python", "-m", "shotstream_rt"]
    assert main([words[3], url]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    named = re.findall(r"\b(\w+_ms)\b", DOCUMENT.read_text("utf-8").split("Is it well?")[1])
    assert {"first_frame_ms", "applied_ms", "back_ms"} <= set(named)
    figures = {figure for step in report["steps"] for figure in step}
    assert {"first_frame_ms", "applied_ms", "back_ms"} <= figures


def test_every_address_and_every_error_is_in_its_table() -> None:
    text = DOCUMENT.read_text("utf-8")
    for address in addresses("ID"):
        if address.path.startswith(("/v1/sessions", "/v1/videos")):
            assert f"| `{address.method} {address.path}` |" in text
    for code, status in STATUS.items():
        (row,) = re.findall(rf"^\| `{code}` \| {status} \|.*$", text, re.MULTILINE)
        assert ("retryable" in row) == (code in RETRYABLE)
    limits = Limits()
    assert f"{limits.videos} are kept, each for an hour" in text
    assert limits.video_keep_s == 3600


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of files on another origin: its address and its folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=files.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{files.server_address[1]}", tmp_path
    finally:
        files.shutdown()
        files.server_close()
        thread.join(PATIENCE_S)


def test_the_player_in_a_page_of_another_origin(
    serving: Callable[..., AbstractContextManager[tuple[Server, str]]],
    elsewhere: tuple[str, Path],
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    origin, folder = elsewhere
    with serving(origins=(origin,)) as (server, url), Client(url) as film:
        film.cut(CAT)
        place = server.address.removeprefix("http://")
        text = example("html", "player.js").replace("SERVER", place)
        (folder / "page.html").write_text(text.replace("TOKEN", film.welcome.viewer_token))
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=chromium,
                args=["--no-sandbox", "--disable-gpu",
                      "--autoplay-policy=no-user-gesture-required"],
            )  # fmt: skip
            page = browser.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"{origin}/page.html")
            shown = "document.getElementById('film').getVideoPlaybackQuality().totalVideoFrames"
            wait_for(lambda: bool(errors) or page.evaluate(shown) > 10)
            browser.close()
        assert errors == []
