"""The page in a browser: opened, waited for, with its picture."""

from __future__ import annotations

import time
from typing import Any

from ..patience import PATIENCE_S


def opened(browser: Any, url: str, script: str = "", **options: Any) -> Any:
    """Open the page; its mistakes and the addresses it asks for are kept in ``page.seen``.

    Args:
        browser: see the fixture.
        url: of the page.
        script: runs in the page before it does anything.
        options: of Playwright's ``new_context``.
    """
    options = {"viewport": {"width": 1280, "height": 860}, "accept_downloads": True, **options}
    context = browser.new_context(**options)
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    page.seen = {"errors": [], "requests": []}
    page.on("pageerror", lambda error: page.seen["errors"].append(str(error)))
    page.on("console", lambda line: line.type == "error" and page.seen["errors"].append(line.text))
    page.on("request", lambda request: page.seen["requests"].append(request.url))
    page.on("websocket", lambda socket: page.seen["requests"].append(socket.url))
    page.add_init_script(script)
    page.goto(url)
    return page


def until(page: Any, expression: str) -> Any:
    """Wait until an expression is true on the page; its policy forbids Playwright's own way."""
    end = time.monotonic() + PATIENCE_S
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < end, f"{expression}: not within {PATIENCE_S} s"
        page.wait_for_timeout(50)
    return value


def playing(browser: Any, url: str, **options: Any) -> Any:
    """Open the page and wait for the picture; if the film has not begun, begin it."""
    page = opened(browser, url, **options)
    hint = "!document.getElementById('hint').hidden"
    if until(page, f"desk.shown > 0 || {hint}") and page.evaluate(hint):
        page.click("#suggestions button")
    until(page, "desk.shown > 10")
    return page
