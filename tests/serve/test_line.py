"""Who plays and who waits: the line by itself, then films that sleep, wait and wake in a server."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from shotstream_rt.serve import greeting
from shotstream_rt.serve.async_client import AsyncClient, ServerError, Wait
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.from_server import Queue
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.line import Line
from shotstream_rt.serve.server import Server

from ..patience import PATIENCE_S, wait_for

CAT = "Wide shot: a red cat walks right on a beach."
ROBOT = "Close-up: a blue robot stands still in a forest."

Serving = Callable[..., AbstractContextManager[tuple[Server, str]]]


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)


async def settled() -> None:
    """Let everything happen that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_films_play_in_the_order_in_which_they_came() -> None:
    async def steps() -> None:
        line = Line(lambda: 2)
        await line.enter("a")
        assert line.has_room
        await line.enter("b")
        assert not line.has_room
        waiting = {name: asyncio.create_task(line.enter(name)) for name in "cde"}
        await settled()
        assert [line.position(name) for name in "abcde"] == [0, 0, 1, 2, 3]
        assert len(line) == 3
        line.leave("a")
        await settled()
        assert waiting["c"].done()
        assert [line.position(name) for name in "cde"] == [0, 1, 2]
        waiting["d"].cancel()
        await settled()
        assert line.position("e") == 1
        line.leave("b")
        await waiting["e"]
        assert len(line) == 0

    run(steps())


def test_nobody_overtakes_who_waits_when_room_comes_up() -> None:
    async def steps() -> None:
        room = 1
        line = Line(lambda: room)
        await line.enter("a")
        waiting = asyncio.create_task(line.enter("b"))
        await settled()
        room = 2
        assert not line.has_room, "it is b's"
        line.advance()
        await waiting
        room = 1  # a device that became slower: nobody is sent away
        line.leave("a")
        assert not line.has_room

    run(steps())


def test_a_place_that_comes_too_late_goes_to_the_next() -> None:
    async def steps() -> None:
        line = Line(lambda: 1)
        await line.enter("a")
        second, third = (asyncio.create_task(line.enter(name)) for name in "bc")
        await settled()
        line.leave("a")  # admits b, which gives up at the same moment
        second.cancel()
        await third
        assert second.cancelled()

    run(steps())


def test_who_is_turned_away_hears_why() -> None:
    async def steps() -> None:
        line = Line(lambda: 0)
        waiting = asyncio.create_task(line.enter("a"))
        await settled()
        line.turn_away("a", KeyError("closed"))
        with pytest.raises(KeyError, match="closed"):
            await waiting
        assert len(line) == 0
        line.turn_away("a", KeyError("nobody hears it"))

    run(steps())


# With a server.


def at(server: Server) -> httpx.Client:
    """A client of a server's addresses, with the director's token."""
    headers = {"Authorization": f"Bearer {server.tokens.director}"}
    return httpx.Client(base_url=server.address, headers=headers, timeout=PATIENCE_S)


@contextmanager
def greeted(server: Server, session: str) -> Iterator[ClientConnection]:
    """Open a socket and say hello; without the picture."""
    address = server.address.replace("http", "ws")
    hello = {"type": "hello", "token": server.tokens.director, "session": session, "video": False}
    with connect(f"{address}/v1/live", max_size=2**24) as socket:
        socket.send(json.dumps(hello))
        yield socket


def hear(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of a kind."""
    while True:
        message: dict[str, Any] = json.loads(socket.recv(timeout=PATIENCE_S))
        if message["type"] == kind:
            return message
        assert message["type"] != "error", message


def look(client: Client, count: int) -> int:
    """See some frames; returns the number of the last one."""
    *_, last = itertools.islice(client.frames(timeout_s=PATIENCE_S), count)
    return last.frame


def test_who_comes_after_those_that_play_is_told_the_place_and_let_in(serving: Serving) -> None:
    with serving(capacity=1) as (server, url), at(server) as http:
        ids = [http.post("/v1/sessions", json={}).json()["id"] for _ in range(3)]
        assert [http.get(f"/v1/sessions/{id}").json()["state"] for id in ids] == [
            "waiting", "asleep", "asleep",
        ]  # fmt: skip
        with Client(url, session=ids[0]) as first, greeted(server, ids[2]) as third:
            first.cut(CAT)
            look(first, 5)
            with greeted(server, ids[1]) as second:
                told = [hear(socket, "queue") for socket in (second, third)]
                wait_for(lambda: len(server.films.line) == 2)
                assert {told[0]["position"], told[1]["position"]} <= {1, 2}
                assert http.get(f"/v1/sessions/{ids[1]}/live.mp4").status_code == 429
                assert http.get(f"/v1/sessions/{ids[1]}/film.json").status_code == 409
            # Who has gone is kept no place.
            wait_for(lambda: server.films.line.position(ids[2]) == 1)
            while hear(third, "queue")["length"] != 1:
                pass
            http.delete(f"/v1/sessions/{ids[0]}")
            assert hear(third, "welcome")["session"] == ids[2]


def test_clients_tell_that_they_wait_in_line(serving: Serving) -> None:
    with serving(capacity=1) as (server, url), at(server) as http:
        ids = [http.post("/v1/sessions", json={}).json()["id"] for _ in range(2)]
        heard: list[Wait] = []

        async def wait_and_join() -> None:
            joining = asyncio.create_task(
                AsyncClient.join(url, session=ids[1], on_wait=heard.append)
            )
            await asyncio.to_thread(wait_for, lambda: heard)
            assert not joining.done()
            await asyncio.to_thread(http.delete, f"/v1/sessions/{ids[0]}")
            async with asyncio.timeout(PATIENCE_S), await joining as client:
                assert (client.session, client.waits_for) == (ids[1], None)

        asyncio.run(wait_and_join())
        assert {(type(wait), wait.position, wait.length) for wait in heard} == {(Queue, 1, 1)}

        class TooLongError(Exception):
            pass

        def give_up(wait: Wait) -> None:
            raise TooLongError(wait)

        other = http.post("/v1/sessions", json={}).json()["id"]
        with pytest.raises(TooLongError, match="position=1"):
            Client(url, session=other, on_wait=give_up)
        wait_for(lambda: not len(server.films.line))


def test_clients_that_come_back_tell_that_they_wait_in_line(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, connect_to = False, greeting.connect

    def connect_while_up(*arguments: Any, **options: Any) -> Any:
        if down:
            raise OSError("the network is down")
        return connect_to(*arguments, **options)

    monkeypatch.setattr(greeting, "connect", connect_while_up)
    limits = Limits(idle_pause_s=1, idle_sleep_s=3000)
    with serving(limits, capacity=1) as (server, url), at(server) as http:
        ids = [http.post("/v1/sessions", json={}).json()["id"] for _ in range(2)]
        heard: list[Wait] = []
        with (
            Client(url, session=ids[0], on_wait=heard.append) as stays,
            Client(url, session=ids[0], video=False) as leaves,
        ):
            down = True
            stays.lose()
            leaves.lose()
            with greeted(server, ids[1]) as other:
                hear(other, "welcome")  # it has the place of the film that nobody watches now
                assert (heard, stays.waits_for) == ([], None)
                down = False
                for client in (stays, leaves):
                    wait_for(lambda client=client: client.waits_for is not None)
                    assert (client.waits_for.position, client.reconnects) == (1, 0)
                begin_s = time.monotonic()
                leaves.close()  # does not wait until it is let in
                assert time.monotonic() - begin_s < PATIENCE_S / 2
                http.delete(f"/v1/sessions/{ids[1]}")
            wait_for(lambda: stays.reconnects == 1)
            assert (stays.waits_for, type(heard[-1])) == (None, Queue)
            stays.cut(CAT)
            look(stays, 3)


def test_a_film_closed_while_it_waits_in_line(serving: Serving) -> None:
    with serving(capacity=1) as (server, _), at(server) as http:
        ids = [http.post("/v1/sessions", json={}).json()["id"] for _ in range(2)]
        with greeted(server, ids[1]) as socket:
            hear(socket, "queue")
            assert http.delete(f"/v1/sessions/{ids[1]}").status_code == 204
            message = json.loads(socket.recv(timeout=PATIENCE_S))
            while message["type"] == "queue":
                message = json.loads(socket.recv(timeout=PATIENCE_S))
        assert (message["type"], message["code"]) == ("error", "not_found")
        assert "closed" in message["message"]


def test_who_waits_in_line_when_the_server_ends_may_come_back(serving: Serving) -> None:
    with serving(capacity=1) as (server, _), at(server) as http:
        ids = [http.post("/v1/sessions", json={}).json()["id"] for _ in range(2)]
        with greeted(server, ids[1]) as socket:
            hear(socket, "queue")
            server.stop()
            message = json.loads(socket.recv(timeout=PATIENCE_S))
            while message["type"] == "queue":
                message = json.loads(socket.recv(timeout=PATIENCE_S))
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=PATIENCE_S)
            assert (message["type"], message["code"]) == ("error", "unavailable")
            assert (message["retryable"], socket.close_code) == (True, 4503)


def test_a_film_that_nobody_watches_makes_room(serving: Serving) -> None:
    with (
        serving(Limits(idle_pause_s=1, idle_sleep_s=3000), capacity=1) as (server, url),
        at(server) as http,
    ):
        with Client(url) as first:
            first.cut(CAT)
            look(first, 5)
            left = first.session
        other = http.post("/v1/sessions", json={}).json()["id"]
        assert http.get(f"/v1/sessions/{left}").json()["state"] != "asleep"
        with Client(url, session=other) as second:  # waits in line meanwhile
            assert http.get(f"/v1/sessions/{left}").json()["state"] == "asleep"
            assert http.get(f"/v1/sessions/{left}/film.json").json()["frames"] >= 5
            assert len(http.get(f"/v1/sessions/{left}/film.mp4").content) > 1000
            second.cut(CAT)
            look(second, 5)


def test_a_film_that_slept_goes_on_bit_for_bit(serving: Serving) -> None:
    """The files of both films are compared: H.264 encodes the same pictures to the same bytes."""
    files = []
    with serving(Limits(idle_pause_s=1, idle_sleep_s=1)) as (server, url), at(server) as http:
        for sleeps in (False, True):
            id = http.post("/v1/sessions", json={"seed": 11}).json()["id"]
            with Client(url, session=id) as client:
                client.cut(CAT)
                client.cut(ROBOT, now=False)
                frame = look(client, 20)
                if not sleeps:
                    while frame < 120:
                        frame = look(client, 1)
            while sleeps and frame < 120:
                wait_for(lambda id=id: http.get(f"/v1/sessions/{id}").json()["state"] == "asleep")
                with Client(url, session=id) as client:
                    # A part of the first shot, then all of it, then a part of the next one. What is
                    # shown again may end where the film fell asleep, and that is not far enough.
                    wanted = frame + 40
                    while frame < wanted:
                        frame = look(client, 1)
            files.append(http.get(f"/v1/sessions/{id}/film.mp4").content)
            http.delete(f"/v1/sessions/{id}")
    shorter, longer = sorted(files, key=len)
    assert len(shorter) > 20_000
    assert longer.startswith(shorter)


def test_an_ask_of_a_woken_film_takes_effect(serving: Serving) -> None:
    with serving(Limits(idle_pause_s=1, idle_sleep_s=1)) as (server, url), at(server) as http:
        with Client(url) as client:
            client.cut(CAT)
            look(client, 15)
            id = client.session
        wait_for(lambda: http.get(f"/v1/sessions/{id}").json()["state"] == "asleep")
        with Client(url) as client:
            assert client.session == id
            assert client.welcome.begun
            cut = client.outcome(client.cut(ROBOT))
            assert (cut.shot, cut.state if cut.type == "over" else "shown") == (1, "shown")
            undone = client.outcome(client.undo(index=5))
            assert (undone.shot, undone.index) == (0, 5)


def test_a_branch_may_have_to_wait(serving: Serving) -> None:
    with serving(capacity=1) as (server, url), at(server) as http, Client(url) as client:
        client.cut(CAT)
        look(client, 15)
        other = client.branch()
        with greeted(server, other) as socket:
            assert hear(socket, "queue")["position"] == 1
            http.delete(f"/v1/sessions/{client.session}")
            assert hear(socket, "welcome")["begun"]
            assert hear(socket, "stats")["recorded_frames"] >= 15


def test_a_token_has_so_many_films(serving: Serving) -> None:
    with serving(Limits(token_sessions=2)) as (server, _), at(server) as http:
        ids = [http.post("/v1/sessions", json={}).json()["id"] for _ in range(2)]
        refused = http.post("/v1/sessions", json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "full")
        assert "this token has 2" in refused.json()["error"]["message"]
        http.delete(f"/v1/sessions/{ids[0]}")
        assert http.post("/v1/sessions", json={}).status_code == 201


def test_a_token_has_so_much_film(serving: Serving) -> None:
    with serving(Limits(token_film_s=1)) as (_, url), Client(url) as client:
        client.cut(CAT)
        look(client, 16)
        wait_for(lambda: client.stats is not None and client.stats.state == "paused")
        with pytest.raises(ServerError, match="1 seconds were made for this token") as full:
            client.cut(ROBOT)
        assert full.value.code == "full"
        assert client.check("a red cat") == ()
        assert len(client.download()) > 1000


def test_a_token_may_say_so_much_over_all_its_sockets(serving: Serving) -> None:
    limits = Limits(token_messages_per_second=1, messages_per_second=1000)
    with serving(limits) as (server, _), at(server) as http, ExitStack() as opened:
        id, told = http.post("/v1/sessions", json={}).json()["id"], set()
        sockets = [opened.enter_context(greeted(server, id)) for _ in range(4)]
        for socket in sockets:
            hear(socket, "welcome")
            socket.send(json.dumps({"type": "check", "id": "a", "text": CAT}))
        for socket in sockets:
            socket.send(json.dumps({"type": "check", "id": "b", "text": CAT}))
        for socket in sockets:
            for _ in range(2):
                while (message := json.loads(socket.recv(PATIENCE_S)))["type"] not in (
                    "accepted", "error",
                ):  # fmt: skip
                    pass
                told.add(message.get("code", "accepted"))
        assert told == {"accepted", "too_fast"}


def test_how_many_films_play_is_measured(serving: Serving) -> None:
    with serving(capacity=None) as (server, url), Client(url) as client:
        assert server.films.scheduler.throughput.frames_per_s
        assert server.films.capacity() >= 1
        client.cut(CAT)
        look(client, 5)
