"""The page's connection: in line until it is let in, lost and back again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx

from shotstream_rt.serve.client import Client
from shotstream_rt.serve.server import Server

from ..patience import PATIENCE_S, wait_for
from .desk import opened, playing, until

Serving = Callable[..., AbstractContextManager[tuple[Server, str]]]

SOCKETS = """
  window.sockets = []; window.said = []; window.away = false; window.change = (data) => data;
  window.WebSocket = class extends WebSocket {
    constructor(address) {
      super(window.away ? address.replace("live", "nowhere") : address);
      sockets.push(this);
    }
    send(data) { said.push(JSON.parse(data)); super.send(data); }
    get onmessage() { return super.onmessage; }
    set onmessage(hear) { super.onmessage = ({ data }) => hear({ data: window.change(data) }); }
  };
"""
"""Sockets of the page that can be closed, that reach nothing while ``away``, and whose messages
can be changed."""

SEEN = """() => {
  const video = document.getElementById("video"), seen = window.seen = [];
  const look = (now, { mediaTime }) => {
    seen.push(Math.round(16 * mediaTime));
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
}"""
"""Notes the number of every frame on the glass."""

HELLOS = "said.filter(message => message.type === 'hello')"
SESSION = "new URLSearchParams(location.hash.slice(1)).get('session')"
VEIL = "document.getElementById('veil-text').textContent"
SOURCE = "document.getElementById('video').currentSrc"


def at(server: Server) -> httpx.Client:
    """A client of a server's addresses, with the director's token."""
    headers = {"Authorization": f"Bearer {server.tokens.director}"}
    return httpx.Client(base_url=server.address, headers=headers, timeout=PATIENCE_S)


def rises(numbers: list[int]) -> bool:
    """Whether each number is greater than the one before it."""
    return all(one < other for one, other in itertools.pairwise(numbers))


def expect_a_new_picture(page: Any, change: str) -> None:
    """Run a script on a page that plays, and wait until it shows the film anew.

    Args:
        page: opened with ``SOCKETS``.
        change: statements after which the page has to connect once more.
    """
    until(page, "desk.frame > 20")
    source = page.evaluate(SOURCE)
    shown = page.evaluate(f"{change}; desk.shown")
    until(page, f"sockets.length === 2 && desk.shown > {shown + 20}")
    assert page.evaluate(SOURCE) != source


def test_the_place_in_line_is_shown_and_read_out(browser: Any, serving: Serving) -> None:
    with serving(capacity=1) as (server, url), at(server) as http:
        ids = [http.post("/v1/sessions", json={}).json()["id"] for _ in range(2)]
        page = opened(browser, f"{url}&session={ids[1]}", SOCKETS)
        until(page, f"{VEIL} === 'Others are playing. You are next.'")
        told = page.get_by_role("status").filter(has_text="You are next.")
        assert told.is_visible()
        assert page.inner_text("#state") == "in line"
        assert page.get_by_role("progressbar").count() == 0, "nothing is being loaded"
        page.evaluate(
            "window.spoken = 0; new MutationObserver((changes) => { spoken += changes.length; })"
            ".observe(document.getElementById('veil-text'), {childList: true})"
        )
        many = "desk.messages.filter(message => message.type === 'queue').length"
        until(page, f"{many} >= 3")
        assert page.evaluate("spoken") == 0, "the same place is read out once"
        page.evaluate(
            "sockets[0].onmessage({data: JSON.stringify({type: 'queue', position: 2, length: 5})})"
        )
        assert page.inner_text("#veil-text") == "Others are playing. You are 2 of 5 in line."
        http.delete(f"/v1/sessions/{ids[0]}")
        until(page, "!document.getElementById('hint').hidden")
        # A line behind a film that was open already is shown in place of what was offered there.
        page.evaluate(
            "sockets[0].onmessage({data: JSON.stringify({type: 'queue', position: 1, length: 1})})"
        )
        assert told.is_visible() and page.locator("#hint").is_hidden()
        assert page.seen["errors"] == []
        page.context.close()


def test_a_lost_connection_goes_on_with_the_picture(browser: Any, serving: Serving) -> None:
    with serving() as (_, url):
        page = playing(browser, url, script=SOCKETS)
        page.evaluate(SEEN)
        until(page, "desk.frame > 20")
        source = page.evaluate(SOURCE)
        for lost in (1, 2):
            last = page.evaluate("sockets.at(-1).close(); desk.last")
            until(page, f"sockets.length === {lost + 1} && desk.frame > {last + 20}")
            after = page.evaluate(f"{HELLOS}[{lost}].after")
            assert after >= last
            assert after + 1 < page.evaluate("desk.last")
        assert page.evaluate(SOURCE) == source
        assert page.evaluate("document.getElementById('video').buffered.length") == 1, "a gap"
        assert page.locator("#veil").is_hidden()
        seen = page.evaluate("seen")
        assert rises(seen), seen
        assert page.seen["errors"] == []
        page.context.close()


def test_who_was_away_for_long_goes_on_at_a_key_frame(browser: Any, serving: Serving) -> None:
    with serving() as (_, url):
        page = playing(browser, url, script=SOCKETS)
        session = page.evaluate(SESSION)
        with Client(url, session=session, video=False) as other:  # so that the film goes on
            page.evaluate(SEEN)
            until(page, "desk.frame > 20")
            last = page.evaluate("window.away = true; sockets.at(-1).close(); desk.last")
            until(page, "sockets.length > 2")
            assert page.get_by_text("The connection is lost.").is_visible()
            # The server keeps what was sent since the key frame before the last one.
            wait_for(lambda: other.stats is not None and other.stats.frames > last + 2 * 3 * 16 + 2)
            page.evaluate("window.away = false")
            until(page, f"desk.frame > {last + 2 * 3 * 16}")
            shown = page.evaluate("desk.frame")
            until(page, f"desk.frame > {shown + 20}")
        assert page.evaluate("document.getElementById('video').buffered.length") == 2
        seen = page.evaluate("seen")
        assert rises(seen), seen
        assert page.locator("#veil").is_hidden()
        page.context.close()


def test_a_film_that_went_back_is_shown_anew(browser: Any, serving: Serving) -> None:
    with serving() as (_, url):
        page = playing(browser, url, script=SOCKETS)
        expect_a_new_picture(
            page,
            "window.change = (data) => {"
            "  if (typeof data !== 'string' || JSON.parse(data).type !== 'welcome') return data;"
            "  return JSON.stringify({...JSON.parse(data), frame: 3});"
            "}; sockets.at(-1).close()",
        )
        assert page.locator("#veil").is_hidden()
        assert page.seen["errors"] == []
        page.context.close()


def test_a_picture_that_cannot_be_decoded_is_shown_anew(browser: Any, serving: Serving) -> None:
    with serving() as (_, url):
        page = playing(browser, url, script=SOCKETS)
        expect_a_new_picture(
            page,
            "window.change = (data) => {"
            "  if (typeof data === 'string') return data;"
            "  window.change = (data) => data;"
            "  const bytes = new Uint8Array(data.slice(0));"
            "  bytes.fill(255, 8, 48);"
            "  return bytes.buffer;"
            "}",
        )
        page.context.close()


def test_a_film_that_has_ended_says_so_over_its_last_picture(
    browser: Any, serving: Serving
) -> None:
    with serving() as (server, url), at(server) as http:
        page = playing(browser, url)
        http.delete(f"/v1/sessions/{page.evaluate(SESSION)}")
        until(page, f"{VEIL}.startsWith('The film has ended')")
        page.wait_for_timeout(1000)  # in which the last frames that came are shown
        assert page.get_by_text("The film has ended").is_visible()
        page.context.close()


def test_a_film_whose_server_ends_is_looked_for_again(browser: Any, serving: Serving) -> None:
    with serving() as (_, url):
        page = playing(browser, url, script=SOCKETS)
        last = page.evaluate("desk.last")
        page.evaluate(
            "sockets[0].onmessage({data: JSON.stringify("
            "  {type: 'ended', message: 'the server ends', reason: 'server'})});"
            "sockets[0].close()"
        )
        until(page, f"sockets.length === 2 && desk.frame > {last + 20}")
        assert page.locator("#veil").is_hidden()
        page.context.close()
