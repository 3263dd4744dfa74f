"""Tokens: wrong, missing, ended and foreign ones at every address that the server has."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from shotstream_rt.serve.app import PUBLIC, make_app
from shotstream_rt.serve.async_client import ServerError
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.metrics import Metrics
from shotstream_rt.serve.server import Server
from shotstream_rt.serve.tokens import Tokens

from ..patience import PATIENCE_S

NOBODY = "a token that no server has, of some length"

anyone = httpx.Client(timeout=PATIENCE_S)


def test_what_a_token_of_a_film_says() -> None:
    tokens = Tokens("0123456789abcdef")
    access = tokens.access_of(tokens.mint("viewer", "f-1", expires_at=2000), now_s=1999)
    assert access is not None
    assert (access.role, access.film, access.expires_at) == ("viewer", "f-1", 2000)
    assert not access.directs
    assert access.is_for("f-1") and not access.is_for("f-2")
    assert access.left_s(1500) == 500
    assert tokens.access_of(tokens.mint("viewer", "f-1", expires_at=2000), now_s=2000) is None
    forever = Tokens("0123456789abcdef").access_of(tokens.mint("director", "f-1"))
    assert forever is not None and forever.directs and forever.left_s() is None


@pytest.mark.parametrize("place", range(5))
def test_no_part_of_a_token_can_be_changed(place: int) -> None:
    tokens = Tokens("0123456789abcdef")
    token = tokens.mint("viewer", "f1", expires_at=4_000_000_000)
    parts = token.split(".")
    for other in ("f2", "d", "f9", "0", parts[4][:-2] + "AA", "", "x" * 43):
        if other != parts[place]:
            changed = ".".join([*parts[:place], other, *parts[place + 1 :]])
            assert tokens.access_of(changed) is None, changed
    assert Tokens("another-secret-of-some-length").access_of(token) is None


class Address(NamedTuple):
    """One method of one address, with everything in it filled in."""

    method: str
    path: str
    name: str


def addresses(film: str) -> list[Address]:
    """Every address over HTTP that the application has, found out from itself."""

    async def nothing(socket: Any) -> None:
        pass

    app = make_app(
        tokens=Tokens(), limits=Limits(), origins=(), metrics=Metrics(), lifespan=None,
        converse=nothing,
    )  # fmt: skip
    found = [
        Address(method, route.path.replace("{id}", film), route.path)
        for route in routes_of(app)
        for method in sorted(getattr(route, "methods", None) or {"SOCKET"})
        if method != "HEAD"
    ]
    assert set(app.openapi()["paths"]) <= {address.name for address in found}
    assert [found.pop(found.index(a)).path for a in tuple(found) if a.method == "SOCKET"] == [
        "/v1/live"
    ], "a socket shows its token in its first message: test_strangers.py"
    assert all("{" not in address.path for address in found), "fill in the new parameter above"
    return found


def routes_of(app: Any) -> Iterator[Any]:
    """Routes of an application or a router, those of routers inside of it too."""
    for route in app.routes:
        inside = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inside, "routes"):
            yield from routes_of(inside)
        else:
            yield route


@pytest.fixture(scope="module")
def films(running: tuple[Server, str]) -> tuple[str, str]:
    """Ids of two films of the server."""
    server, _ = running
    headers = {"Authorization": f"Bearer {server.tokens.director}"}
    ids = [
        anyone.post(f"{server.address}/v1/sessions", headers=headers, json={}).json()["id"]
        for _ in range(2)
    ]
    return ids[0], ids[1]


def asked(server: Server, address: Address, headers: dict[str, str]) -> httpx.Response:
    """Ask, with a body that is good everywhere it is wanted; the picture's head is enough."""
    body: dict[str, Any] = {"prompt": "a red cat"} if "videos" in address.path else {}
    options: dict[str, Any] = {"json": body} if address.method == "POST" else {}
    place = server.address + address.path
    with anyone.stream(address.method, place, headers=headers, **options) as answer:
        if answer.headers.get("content-type", "").startswith("application/json"):
            answer.read()
    return answer


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_no_address_was_forgotten(films: tuple[str, str]) -> None:
    names = {address.name for address in addresses(films[0])}
    assert {"/", "/v1/sessions", "/v1/sessions/{id}/tokens", "/v1/videos/{id}/content"} <= names
    assert names >= PUBLIC


def test_nobody_is_let_in_anywhere(server: Server, films: tuple[str, str]) -> None:
    film, _ = films
    tokens = server.tokens
    ended = tokens.mint("director", film, expires_at=int(time.time()) - 1)
    elsewhere = Tokens("another-secret-of-some-length")
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Token {tokens.director}"},
        {"Authorization": "Basic !!"},
        {"Authorization": "Basic " + base64.b64encode(NOBODY.encode()).decode()},
        bearer(NOBODY),
        bearer(tokens.director[:-1]),
        bearer(tokens.director + "x"),
        bearer(ended),
        bearer(tokens.mint("director", film)[:-1] + "_"),
        bearer(elsewhere.director),
        bearer(elsewhere.mint("director", film)),
    ]
    for address in addresses(film):
        for headers in wrong:
            answer = asked(server, address, headers)
            if address.path in PUBLIC:
                assert answer.status_code == 200, address
                continue
            assert answer.status_code == 401, (address, headers)
            assert answer.json()["error"]["code"] == "unauthorized"
            assert answer.headers["www-authenticate"] in ("Bearer", "Basic")
    assert [found.id for found in server.films.all()] == list(films)


def test_a_token_does_what_it_is_for_and_nothing_else(
    server: Server, films: tuple[str, str]
) -> None:
    film, other = films
    tokens = server.tokens
    for token, own, directs in (
        (tokens.viewer, None, False),
        (tokens.mint("viewer", film), film, False),
        (tokens.mint("director", film), film, True),
        (tokens.mint("director", film, expires_at=int(time.time()) + 1000), film, True),
    ):
        for address in (*addresses(film), *addresses(other)):
            if address.path in PUBLIC or (
                address.method == "DELETE" and address.path.endswith(film)
            ):
                continue
            names_film = address.path.startswith("/v1/sessions/")
            about_server = not names_film and (address.method, address.path) != (
                "GET", "/v1/sessions",
            )  # fmt: skip
            foreign = own is not None and (about_server or (names_film and own not in address.path))
            changes = address.method in ("POST", "DELETE", "PUT", "PATCH")
            answer = asked(server, address, bearer(token))
            if foreign or (changes and not directs):
                assert answer.status_code == 403, (address, token)
                assert answer.json()["error"]["code"] == "forbidden"
            else:
                # No video has the id of a film: its address is refused for that and nothing else.
                assert answer.status_code in (200, 201, 422), (address, token)
                assert answer.status_code != 422 or "/v1/videos/" in address.path
    assert [found.id for found in server.films.all()] == list(films)


def test_the_list_shows_what_the_token_is_for(server: Server, films: tuple[str, str]) -> None:
    film, other = films
    for token, seen in (
        (server.tokens.viewer, [film, other]),
        (server.tokens.mint("viewer", other), [other]),
        (server.tokens.mint("viewer", "none"), []),
    ):
        told = anyone.get(f"{server.address}/v1/sessions", headers=bearer(token)).json()
        assert [session["id"] for session in told["sessions"]] == seen


def test_tokens_are_made_over_http(server: Server, films: tuple[str, str]) -> None:
    film, _ = films
    place = f"{server.address}/v1/sessions/{film}/tokens"
    plain = anyone.post(place, headers=bearer(server.tokens.director)).json()
    assert (plain["role"], plain["session"], plain["expires_at"]) == ("viewer", film, None)
    assert plain["link"] == f"/#token={plain['token']}&session={film}"
    short = anyone.post(
        place, headers=bearer(server.tokens.director), json={"role": "director", "seconds": 60}
    ).json()
    assert 0 < short["expires_at"] - time.time() <= 61
    # What a token that ends makes does not outlive it.
    for seconds in (None, 3600, 30):
        made = anyone.post(place, headers=bearer(short["token"]), json={"seconds": seconds}).json()
        assert made["expires_at"] <= short["expires_at"]
    refused = anyone.post(place, headers=bearer(plain["token"]), json={})
    assert refused.status_code == 403
    for wrong in ({"seconds": 0}, {"role": "admin"}, {"seconds": "60"}, {"who": "me"}):
        answer = anyone.post(place, headers=bearer(server.tokens.director), json=wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "malformed")


def test_a_socket_is_for_the_film_of_its_token(
    server: Server, url: str, films: tuple[str, str]
) -> None:
    film, other = films
    tokens = server.tokens
    with Client(server.address, token=tokens.mint("director", film), video=False) as client:
        assert client.session == film  # and not the one opened last
        assert "branch" not in client.welcome.asks
        with pytest.raises(ServerError) as refused:
            client.branch()
        assert (refused.value.code, refused.value.retryable) == ("forbidden", False)
        assert client.check("a red cat") == ()
        link = client.welcome.viewer_token
    with Client(server.address, token=link, video=False) as client:
        assert (client.session, client.welcome.role) == (film, "viewer")
    for token, session in (
        (link, other),
        (tokens.mint("director", film), other),
        (tokens.mint("director", film), "nothing"),
    ):
        with pytest.raises(ServerError) as refused:
            Client(server.address, token=token, session=session)
        assert refused.value.code == "forbidden"
    with pytest.raises(ServerError) as refused:
        Client(server.address, token=tokens.mint("viewer", "gone"))
    assert refused.value.code == "not_found"


def test_a_token_that_ends_closes_its_socket(server: Server, films: tuple[str, str]) -> None:
    film, _ = films
    token = server.tokens.mint("viewer", film, expires_at=int(time.time()) + 2)
    with connect(server.address.replace("http", "ws") + "/v1/live") as there:
        there.send(json.dumps({"type": "hello", "token": token, "video": False}))
        told: list[dict[str, Any]] = []
        with pytest.raises(ConnectionClosed):
            while True:
                told.append(json.loads(there.recv(timeout=PATIENCE_S)))
    assert told[0]["type"] == "welcome"
    assert (told[-1]["type"], told[-1]["code"]) == ("error", "unauthorized")
    assert there.protocol.close_code == 4401
    assert anyone.get(f"{server.address}/v1/sessions", headers=bearer(token)).status_code == 401


def test_a_live_picture_ends_with_its_token(server: Server, films: tuple[str, str]) -> None:
    film, _ = films
    place = f"{server.address}/v1/sessions/{film}/live.mp4"
    token = server.tokens.mint("viewer", film, expires_at=int(time.time()) + 2)
    with anyone.stream("GET", place, headers=bearer(token)) as answer:
        assert answer.status_code == 200
        assert sum(len(data) for data in answer.iter_bytes()) > 0  # and it comes to an end
