"""The examples of docs/live.md run as they stand there."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve import conversation, limits
from shotstream_rt.serve.server import Server

from ..patience import PATIENCE_S

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/live.md"

pytestmark = pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)


def example(mark: str) -> dict[str, Any]:
    """Run the one example in which a text occurs, and return what it defines."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if mark in block]
    names: dict[str, Any] = {}
    exec(found, names)
    return names


def test_the_client(url: str) -> None:
    file = asyncio.run(example("AsyncClient")["direct"](url))
    with av.open(io.BytesIO(file)) as container:
        assert len(list(container.decode(video=0))) >= 20


def test_the_client_that_waits_in_line(
    serving: Callable[..., AbstractContextManager[tuple[Server, str]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(capacity=1) as (server, url):
        headers = {"Authorization": f"Bearer {server.tokens.director}"}
        for _ in range(2):
            httpx.post(f"{server.address}/v1/sessions", headers=headers).raise_for_status()
        with pytest.raises(TimeoutError, match="0 films"):
            example("join_soon")["join_soon"](url, most=0)
    assert capsys.readouterr().out == "1 of 1 in line\n"


def test_in_an_event_loop() -> None:
    shown: list[Any] = []
    asyncio.run(example("astream")["play"](shown.append))
    assert len(shown) > 21
    assert {pixels.shape for pixels in shown} == {(96, 160, 3)}


def test_with_threads() -> None:
    shown: list[Any] = []

    def direct(session: Any) -> None:
        session.cut("Wide shot: a red cat walks right on a beach.").wait(PATIENCE_S)
        session.cut("Close-up: a blue robot jumps in a city.", now=True).wait(PATIENCE_S)
        session.close()

    example("threading.Thread")["play"](shown.append, direct)
    assert len(shown) >= 1


def test_in_a_notebook() -> None:
    shell_module: Any = pytest.importorskip("IPython.core.interactiveshell")
    shell = shell_module.InteractiveShell.instance()
    published: list[dict[str, Any]] = []
    before: Callable[..., Any] = shell.display_pub.publish
    shell.display_pub.publish = lambda data, *rest, **options: published.append(data)
    try:
        # A notebook's front end shows pictures; a bare shell has to be told that it can.
        shell.display_formatter.active_types = ["image/png", "text/plain"]
        example("IPython")["play"]()
    finally:
        shell.display_pub.publish = before
        shell_module.InteractiveShell.clear_instance()
    assert len(published) == 1 + 9 + 12  # the blank one, and the frames of two chunks
    assert all("image/png" in data for data in published)


def test_the_document_says_what_holds() -> None:
    text = DOCUMENT.read_text("utf-8")
    for code in (conversation.UNAUTHORIZED, conversation.FORBIDDEN, conversation.NOT_FOUND,
                 conversation.TRY_LATER):  # fmt: skip
        assert f"| {code} |" in text
    allowed = limits.Limits()
    assert f"({allowed.image_side} pixels on a side" in text
    assert f"({allowed.message_bytes >> 20} MiB, {allowed.messages_per_second} a second)" in text
    assert f"pauses after {allowed.idle_pause_s} seconds" in text
