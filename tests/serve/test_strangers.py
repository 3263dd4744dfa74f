"""What strangers do, and people who mean no good: it is answered and bounded; the film goes on."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from shotstream_rt.errors import ConfigError
from shotstream_rt.serve import protocol
from shotstream_rt.serve.async_client import ServerError
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.server import Server
from shotstream_rt.serve.tokens import Tokens, origin_allowed

from ..patience import PATIENCE_S, wait_for

Serving = Callable[..., AbstractContextManager[tuple[Server, str]]]

MESSAGES = int(os.environ.get("SHOTSTREAM_MESSAGES", "3000"))
"""How many are sent to one server, in lists of a hundred; ``.ci/run`` sends more."""

anyone = httpx.Client(timeout=PATIENCE_S)
"""Asks as whoever the given headers say, nobody by default."""

CAT = "Wide shot: a red cat walks right on a beach."


@pytest.fixture(scope="module")
def running(serving: Serving) -> Iterator[tuple[Server, str]]:
    """A server with no limit on how fast messages come, so that thousands can be tried."""
    limits = Limits(
        messages_per_second=10**6, token_messages_per_second=10**6, mistakes=10**6,
        hello_s=PATIENCE_S, viewer_messages=1000, sessions=2,
    )  # fmt: skip
    with serving(limits) as found:
        yield found


def opened(server: Server, **options: Any) -> connect:
    """Open a socket and say nothing."""
    address = server.address.replace("http", "ws")
    return connect(f"{address}/v1/live", max_size=2**24, compression=None, **options)


@contextlib.contextmanager
def joined(server: Server) -> Iterator[ClientConnection]:
    """Open a socket, show the director's token and wait for the welcome; without the picture."""
    with opened(server) as found:
        hello = {"type": "hello", "token": server.tokens.director, "video": False}
        found.send(json.dumps(hello))
        while json.loads(found.recv(timeout=PATIENCE_S))["type"] != "welcome":
            pass
        yield found


def next_answer(there: ClientConnection) -> dict[str, Any]:
    """Return the next answer to a message: an error or an acceptance."""
    while True:
        told: dict[str, Any] = json.loads(there.recv(timeout=PATIENCE_S))
        if told["type"] in ("error", "accepted"):
            return told


def answer_to(there: ClientConnection, message: str | bytes) -> dict[str, Any]:
    """Send a message and return the answer."""
    there.send(message)
    return next_answer(there)


def farewell(there: ClientConnection) -> tuple[dict[str, Any], int]:
    """Return the last message and the code that a socket is closed with."""
    last: dict[str, Any] = {}
    with contextlib.suppress(ConnectionClosed):
        while True:
            data = there.recv(timeout=PATIENCE_S)
            last = json.loads(data) if isinstance(data, str) else last
    return last, there.protocol.close_code or 0


@pytest.mark.parametrize(
    "first,code",
    [
        ('{"type": "hello", "token": "wrong"}', "unauthorized"),
        ('{"type": "hello"}', "malformed"),
        ('{"type": "cut", "id": "1", "text": "a red cat"}', "unauthorized"),
        ("\x00", "malformed"),
    ],
)
def test_without_a_token_nobody_is_let_in(server: Server, first: str, code: str) -> None:
    with opened(server) as there:
        there.send(first)
        last, closed = farewell(there)
    assert (last["type"], last["code"], closed) == ("error", code, 4401)


def test_who_says_nothing_is_not_let_in(serving: Serving) -> None:
    with serving(Limits(hello_s=1)) as (server, _), opened(server) as there:
        last, closed = farewell(there)
    assert (last["type"], last["code"], closed) == ("error", "unauthorized", 4401)


@pytest.mark.parametrize("path", ["", "/x", "/x/live.mp4", "/x/film.mp4", "/x/film.json"])
def test_addresses_of_films_want_a_token(server: Server, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic !!"}):
        answer = anyone.get(f"{server.address}/v1/sessions{path}", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "unauthorized"
    for method, place in (("POST", ""), ("DELETE", "/x")):
        asked = anyone.request(method, f"{server.address}/v1/sessions{place}")
        assert asked.status_code == 401


def test_a_token_in_the_query_is_not_read(server: Server) -> None:
    token = server.tokens.director
    assert anyone.get(f"{server.address}/v1/sessions?token={token}").status_code == 401


def test_players_may_show_the_token_as_a_password(server: Server, http: httpx.Client) -> None:
    with joined(server):
        (film, *_) = http.get("/v1/sessions").json()["sessions"]
    for name in ("any", ""):
        answer = anyone.get(
            f"{server.address}/v1/sessions/{film['id']}", auth=(name, server.tokens.viewer)
        )
        assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.test", "null", "http://", "http://[::1", "x"])
def test_pages_of_other_origins_are_refused(server: Server, origin: str) -> None:
    with opened(server, origin=origin) as there:
        last, closed = farewell(there)
    assert (last["code"], closed) == ("forbidden", 4403)
    headers = {"Origin": origin, "Authorization": f"Bearer {server.tokens.director}"}
    answer = anyone.get(f"{server.address}/v1/sessions", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_origins() -> None:
    assert origin_allowed("http://Phone.test:80", "phone.test:80", ())
    assert origin_allowed(None, "phone.test", ())
    assert origin_allowed("https://a.test", "b.test", ("https://a.test",))
    assert not origin_allowed("https://a.test", "b.test", ())
    assert not origin_allowed("https://a.test", None, ())


def test_tokens(tmp_path: Path) -> None:
    tokens = Tokens("0123456789abcdef")
    director, viewer = tokens.access_of("0123456789abcdef"), tokens.access_of(tokens.viewer)
    assert director is not None and director.role == "director"
    assert viewer is not None and viewer.role == "viewer"
    assert tokens.access_of("") is tokens.access_of("\ud800") is None
    assert Tokens().director != Tokens().director
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert Tokens.from_file(tmp_path / "token").viewer == tokens.viewer
    for unusable in ("short", "x" * 300, "with a blank in it", "umlaut-ä-umlaut-ä"):
        with pytest.raises(ConfigError, match="token"):
            Tokens(unusable)


def test_who_only_watches_does_not_direct(server: Server, url: str) -> None:
    with Client(url, token=server.tokens.viewer) as client:
        assert client.welcome.role == "viewer"
        assert client.welcome.asks == ()
        assert client.welcome.viewer_token == ""
        for ask in (client.retake, client.branch, client.pause):
            with pytest.raises(ServerError) as refused:
                ask()
            assert refused.value.code == "forbidden"
        headers = {"Authorization": f"Bearer {server.tokens.viewer}"}
        place = f"{server.address}/v1/sessions/{client.session}"
        assert anyone.delete(place, headers=headers).status_code == 403
        assert anyone.get(place, headers=headers).status_code == 200


def test_a_megabyte_of_prompt_is_answered(server: Server) -> None:
    with joined(server) as there:
        ask = {"type": "cut", "id": "long", "text": "x" * 2**20}
        answer = answer_to(there, json.dumps(ask))
        assert (answer["id"], answer["code"]) == ("long", "malformed")
        assert "at most 10000" in answer["message"]
        assert answer_to(there, b"\xff" * 2**20)["code"] == "malformed"
        with contextlib.suppress(ConnectionClosed):  # longer than any message may be
            there.send("x" * (Limits().message_bytes + 1))
        # The socket is closed before all of it was read, so the code may be lost on its way.
        assert farewell(there)[1] in (1009, 1006)
    with joined(server) as again:
        assert answer_to(again, "{}")["code"] == "malformed"


def picture(kind: str, size: tuple[int, int]) -> str:
    out = io.BytesIO()
    Image.new("1" if kind == "PNG" else "RGB", size).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


@pytest.mark.parametrize(
    "images,reason",
    [
        ([picture("PNG", (20_000, 20_000))], "pixels"),
        ([picture("PNG", (5_000, 10))], "4096 on a side"),
        ([picture("GIF", (8, 8))], "not a JPEG, PNG or WebP"),
        (["aGVsbG8="], "not a JPEG, PNG or WebP"),
        (["%%%"], "not base64"),
        ([picture("PNG", (8, 8))] * 5, "at most 4"),
    ],
    ids=["huge", "long", "gif", "text", "garbage", "many"],
)
def test_pictures_are_looked_at_before_they_are_decoded(
    server: Server, images: list[str], reason: str
) -> None:
    with joined(server) as there:
        ask = {"type": "cut", "id": "picture", "text": CAT, "images": images}
        answer = answer_to(there, json.dumps(ask))
    assert answer["code"] == "refused"
    assert reason in answer["message"]


def test_a_picture_that_can_be_used_is_taken(server: Server) -> None:
    with joined(server) as there:
        images = [picture("JPEG", (300, 200)), picture("WEBP", (20, 30))]
        answer = answer_to(
            there, json.dumps({"type": "cut", "id": "fine", "text": CAT, "images": images})
        )
    assert answer["type"] == "accepted"


def fields() -> st.SearchStrategy[Any]:
    """Messages that are nearly those of the schema: its fields, with its values and others."""
    junk = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20),
        st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.none()),
    )  # fmt: skip
    ids = st.text("abc0123", min_size=1, max_size=8)
    texts = st.sampled_from(["a red cat", "x", "", " ", "\x00", "\u202e", "é" * 5000])
    known = {"id": ids, "ask": ids, "text": texts, "index": st.integers(-1, 50),
             "shot": st.integers(-1, 5), "chunks": st.integers(-1, 5), "now": st.booleans(),
             "images": st.lists(st.just("aGk="), max_size=6),
             "reread": st.sampled_from(["none", 2, "shot", -1]),
             "ms": st.floats(-1, 1e5)}  # fmt: skip
    messages = []
    for name, definition in protocol.schema()["from_viewer"]["$defs"].items():
        kind = definition["properties"]["type"]["const"]
        # A branch would be a film of its own each time, and a pause would end the test.
        if kind in ("branch", "pause"):
            continue
        others = [field for field in definition["properties"] if field != "type"]
        assert name and all(field in known or kind == "hello" for field in others)
        optional = {field: st.one_of(known.get(field, junk), junk) for field in others}
        valid = {field: known[field] for field in definition["required"] if field in known}
        messages.append(st.fixed_dictionaries({"type": st.just(kind), **valid}))
        messages.append(st.fixed_dictionaries({"type": st.just(kind)}, optional=optional))
    return st.one_of(*messages, st.dictionaries(st.text(max_size=4), junk, max_size=4), junk)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_thousands_of_messages_are_all_answered_and_the_film_goes_on(
    server: Server, url: str
) -> None:
    count, errors = 0, set()
    with joined(server) as there, Client(url) as watching:
        watching.cut(CAT)

        @settings(
            max_examples=MESSAGES // 100, suppress_health_check=list(HealthCheck), database=None
        )
        @given(st.lists(st.one_of(fields(), st.binary(max_size=30)), min_size=100, max_size=100))
        def say(messages: list[Any]) -> None:
            nonlocal count
            for message in messages:
                there.send(message if isinstance(message, bytes) else json.dumps(message))
            for _ in messages:
                answer = next_answer(there)
                count += 1
                if answer["type"] == "error":
                    errors.add(answer["code"])
                    assert answer["message"]

        say()
        for last in ({"type": "resume", "id": "end1"}, {"type": "cut", "id": "end2", "text": CAT}):
            assert answer_to(there, json.dumps(last))["type"] == "accepted"
        seen = [f.frame for f in itertools.islice(watching.frames(timeout_s=PATIENCE_S), 100)]
        assert seen == sorted(set(seen))
    assert count >= MESSAGES
    assert {"malformed", "refused"} <= errors <= {"malformed", "refused", "unsupported", "failed"}


def test_too_many_messages_are_answered_then_ended(serving: Serving) -> None:
    with (
        serving(Limits(messages_per_second=5, mistakes=30)) as (server, _),
        joined(server) as there,
    ):
        for _ in range(100):
            with contextlib.suppress(ConnectionClosed):
                there.send("{}")
        last, closed = farewell(there)
    assert (last["code"], closed) == ("too_fast", 4429)


def test_films_and_viewers_are_counted(serving: Serving) -> None:
    with serving(Limits(sessions=1, viewers=1)) as (server, url):
        headers = {"Authorization": f"Bearer {server.tokens.director}"}
        with Client(url) as client:
            with pytest.raises(ServerError) as full:
                Client(url)
            assert full.value.code == "full"
            answer = anyone.post(f"{server.address}/v1/sessions", headers=headers, json={})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "full")
            place = f"{server.address}/v1/sessions/{client.session}"
            assert anyone.get(f"{place}/live.mp4", headers=headers).status_code == 429
            assert anyone.delete(place, headers=headers).status_code == 204
        assert anyone.get(place, headers=headers).status_code == 404
        answer = anyone.post(f"{server.address}/v1/sessions", headers=headers, json={"seed": -1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "malformed")


def left_alone(server: Server, url: str) -> Callable[[], httpx.Response]:
    """Begin a film, leave it, and return a function that asks after it."""
    with Client(url) as client:
        client.cut(CAT)
        next(client.frames(timeout_s=PATIENCE_S))
    headers = {"Authorization": f"Bearer {server.tokens.director}"}
    place = f"{server.address}/v1/sessions/{client.session}"
    return lambda: anyone.get(place, headers=headers)


def test_a_film_that_nobody_watches_waits(serving: Serving) -> None:
    with serving(Limits(idle_pause_s=1)) as (server, url):
        look = left_alone(server, url)
        wait_for(lambda: look().json()["state"] == "paused")
        with Client(url) as again:
            assert again.session == look().json()["id"]
            assert len(list(itertools.islice(again.frames(timeout_s=PATIENCE_S), 30))) == 30


def test_a_film_that_nobody_comes_back_to_ends(serving: Serving) -> None:
    with serving(Limits(idle_close_s=3)) as (server, url):
        look = left_alone(server, url)
        wait_for(lambda: look().status_code == 404)
