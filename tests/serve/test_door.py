"""The door: two servers behind one address, each film on one of them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import websockets.sync.client
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedOK
from websockets.frames import Close

from shotstream_rt.serve import door_sockets
from shotstream_rt.serve.async_client import ServerError
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.door import Door
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.listener import Listener
from shotstream_rt.serve.server import Server
from shotstream_rt.serve.station import (
    NoStationError,
    Station,
    describe,
    home,
    roomiest,
    station_of,
)
from shotstream_rt.serve.tokens import Tokens

from ..patience import PATIENCE_S, wait_for

TOKEN = "0123456789-abcdef"
LIMITS = Limits(sessions=2, hello_s=30)


# Which server it is, without any.

A = Station(address="http://a", films=("1", "2"), opened_s=5, room=1)
B = Station(address="http://b", films=("3",), opened_s=9, room=3)
C = Station(address="http://c", room=3)


def test_a_film_is_sent_to_the_server_that_has_it() -> None:
    assert [station_of(film, (A, B, C)) for film in "123"] == [A, A, B]


def test_who_names_no_film_gets_the_one_that_was_opened_last() -> None:
    assert station_of(None, (A, B, C)) is B
    assert station_of(None, (C,)) is C


def test_a_new_film_is_opened_where_there_is_most_room() -> None:
    assert roomiest((A, B, C)) is C
    assert roomiest((A, B)) is B
    full = Station(address="http://d", full=True, room=9)
    assert roomiest((full, A)) is A, "it would play one more film, and may not have it"


def test_without_a_server_it_is_said() -> None:
    for ask in (lambda: station_of("1", ()), lambda: station_of(None, ()), lambda: roomiest(())):
        with pytest.raises(NoStationError):
            ask()


def test_when_a_server_goes_only_its_own_films_move() -> None:
    films = [str(number) for number in range(300)]
    before = {film: home(film, (A, B, C)) for film in films}
    assert {station.address for station in before.values()} == {"http://a", "http://b", "http://c"}
    assert before == {film: home(film, (C, A, B)) for film in films}
    for film in films:
        if before[film] is not B:
            assert home(film, (A, C)) is before[film]


# With servers.


class House:
    """Two servers behind a door, which hears ``stations`` where that is set."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.stations: list[Station] | None = None
        self.address = self.url = ""

    def having(self, film: str) -> int:
        (found,) = (n for n, said in enumerate(self.describe()) if film in said.films)
        return found

    def describe(self) -> list[Station]:
        return [describe(server) for server in self.servers]

    async def look(self) -> Sequence[Station]:
        return self.describe() if self.stations is None else self.stations

    @contextmanager
    def open(self) -> Iterator[House]:
        listener = Listener("127.0.0.1", 0)
        self.address, self.url = listener.address, f"{listener.address}/#token={TOKEN}"
        door = Door(self.look, Tokens(TOKEN), LIMITS)
        thread = threading.Thread(target=listener.run, args=(door, LIMITS))
        thread.start()
        try:
            yield self
        finally:
            listener.stop()
            thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.fixture
def house(
    serving: Callable[..., AbstractContextManager[tuple[Server, str]]],
) -> Iterator[House]:
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(LIMITS, tokens=Tokens(TOKEN)))[0] for _ in range(2)]
        yield stack.enter_context(House(servers).open())


@pytest.fixture
def http(house: House) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=house.address, headers=headers, timeout=PATIENCE_S) as client:
        yield client


def test_films_are_spread_and_each_is_found_again(house: House, http: httpx.Client) -> None:
    films = [http.post("/v1/sessions", json={"seed": 7}).json()["id"] for _ in range(4)]
    assert sorted(house.having(film) for film in films) == [0, 0, 1, 1]
    assert {film["id"] for film in http.get("/v1/sessions").json()["sessions"]} == set(films)
    for film in films:
        assert http.get(f"/v1/sessions/{film}").json()["id"] == film
        with Client(house.url, session=film) as client:
            assert client.session == film
    assert http.post("/v1/sessions").json()["error"]["code"] == "full"
    assert http.delete(f"/v1/sessions/{films[0]}").status_code == 204
    assert http.get(f"/v1/sessions/{films[0]}").status_code == 404


def test_videos_of_all_servers_are_one_list(house: House, http: httpx.Client) -> None:
    assert http.get("/v1/videos").json()["first_id"] is None
    body = {"prompt": "Wide shot: a red cat walks right on a beach.", "seconds": 1}
    videos = [http.post("/v1/videos", json=body).json()["id"]]
    http.post("/v1/sessions")  # so that the next one is ordered from the other server
    videos.append(http.post("/v1/videos", json=body).json()["id"])
    assert [len(said.videos) for said in house.describe()] == [1, 1]
    listed = http.get("/v1/videos").json()
    assert {video["id"] for video in listed["data"]} == set(videos)
    assert [listed["first_id"], listed["last_id"]] == [video["id"] for video in listed["data"]]
    for video in videos:
        wait_for(lambda: http.get(f"/v1/videos/{video}").json()["status"] == "completed")  # noqa: B023
        assert http.get(f"/v1/videos/{video}/content").content[4:8] == b"ftyp"
        assert http.delete(f"/v1/videos/{video}").json()["deleted"]
    assert http.get("/v1/videos").json()["data"] == []


def test_what_all_servers_measure_is_one_text(house: House, http: httpx.Client) -> None:
    http.post("/v1/sessions")
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    alone = httpx.get(
        f"{house.servers[0].address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    found = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert {
        (family.name, family.type, family.documentation)
        for family in text_string_to_metric_families(alone.text)
    } <= {(family.name, family.type, family.documentation) for family in found.values()}
    opened = found["shotstream_sessions_opened"].samples
    assert {sample.labels["server"] for sample in opened} == {
        server.address for server in house.servers
    }
    assert sum(s.value for s in opened if s.name == "shotstream_sessions_opened_total") == 1
    assert httpx.get(f"{house.address}/metrics").status_code == 401


def test_a_film_is_directed_watched_and_downloaded_through_it(house: House) -> None:
    with Client(house.url) as client, Client(house.url) as other:
        assert other.session == client.session, "who names none gets the one opened last"
        answer = client.cut("Wide shot: a red cat walks right on a beach.")
        frames = client.frames(PATIENCE_S)
        shown = client.outcome(answer).frame
        assert next(frame for frame in frames if frame.frame == shown).pixels.shape == (96, 160, 3)
        assert next(other.frames(PATIENCE_S)).pixels.shape == (96, 160, 3)
        assert client.download()[4:8] == b"ftyp"


def test_the_live_picture_comes_piece_by_piece_and_is_left(
    house: House, http: httpx.Client
) -> None:
    with Client(house.url) as client:
        client.cut("Wide shot: a red cat walks right on a beach.")
        film = house.servers[house.having(client.session)].films.find(client.session)
        with http.stream("GET", f"/v1/sessions/{client.session}/live.mp4") as answer:
            pieces = answer.iter_raw()
            assert next(pieces)[4:8] == b"ftyp"
            assert next(pieces)
            assert len(film.viewers) == 2
        wait_for(lambda: len(film.viewers) == 1)
    wait_for(lambda: not film.viewers)


def test_refusals_of_the_server_are_passed_on(house: House, http: httpx.Client) -> None:
    with pytest.raises(ServerError) as refused:
        Client(house.url, token="0123456789-fedcba")
    assert refused.value.code == "unauthorized"
    with pytest.raises(ServerError) as refused:
        Client(house.url, session="nobody")
    assert refused.value.code == "not_found"
    assert httpx.get(f"{house.address}/v1/sessions").status_code == 401
    foreign = {"Origin": "https://example.org"}
    assert http.get("/v1/schema", headers=foreign).status_code == 403
    own = {"Origin": house.address}
    assert http.get("/v1/schema", headers=own).status_code == 200
    live = house.address.replace("http", "ws") + "/v1/live"
    for origin, code in (("https://example.org", "forbidden"), (house.address, "malformed")):
        with websockets.sync.client.connect(live, origin=origin) as socket:
            socket.send("{}")
            assert json.loads(socket.recv())["code"] == code


def test_a_film_whose_server_ends_is_looked_for_among_the_others(
    serving: Callable[..., AbstractContextManager[tuple[Server, str]]],
) -> None:
    with ExitStack() as stack, ExitStack() as second_one:
        first = stack.enter_context(serving(LIMITS, tokens=Tokens(TOKEN)))[0]
        second = second_one.enter_context(serving(LIMITS, tokens=Tokens(TOKEN)))[0]
        house = stack.enter_context(House([first, second]).open())
        http = stack.enter_context(
            httpx.Client(
                base_url=house.address,
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=PATIENCE_S,
            )
        )
        films = [http.post("/v1/sessions").json()["id"] for _ in range(2)]
        (lost,) = (film for film in films if house.having(film) == 1)
        before = house.stations = house.describe()
        with Client(house.url, session=lost, reconnect_s=0) as client:
            second_one.close()
            wait_for(lambda: client._client._listening.done())
        # One that died a moment ago may still be said to be there.
        assert http.get(f"/v1/sessions/{lost}").status_code == 503
        house.stations = before[:1]
        assert http.get(f"/v1/sessions/{lost}").status_code == 404
        house.stations = []
        answer = http.get("/v1/sessions")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        with pytest.raises(ServerError) as refused:
            Client(house.url)
        assert refused.value.code == "unavailable"


def test_nothing_is_kept_for_a_viewer_that_does_not_read() -> None:
    """A server that sends what it can is held up soon, where it drops frames of a film."""
    piece, most = bytes(2**16), 2**24

    async def watch() -> int:
        sent = 0

        async def send(socket: ServerConnection) -> None:
            nonlocal sent
            await socket.recv()
            while sent < 4 * most:
                await socket.send(piece)
                sent += len(piece)

        async with serve(send, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            port = server.sockets[0].getsockname()[1]
            house = House([])
            house.stations = [Station(address=f"http://127.0.0.1:{port}")]
            with house.open():
                async with connect(house.address.replace("http", "ws"), max_size=None) as viewer:
                    await viewer.send("{}")
                    await viewer.recv()
                    before = -1
                    while before < sent:
                        before = sent
                        await asyncio.sleep(1)
        return sent

    assert asyncio.run(watch()) < most


def test_a_socket_that_says_nothing_is_not_kept() -> None:
    async def look() -> Sequence[Station]:
        return []

    async def silent() -> None:
        sent: list[dict[str, object]] = []

        async def receive() -> dict[str, object]:
            if not sent:
                return {"type": "websocket.connect"}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        await Door(look, Tokens(TOKEN), Limits(hello_s=1))(
            {"type": "websocket", "headers": []}, receive, send
        )  # type: ignore[arg-type]
        assert sent[-1]["code"] == 4401

    asyncio.run(silent())


class SlowViewer:
    """Reads only when it has asked for something twice."""

    def __init__(self) -> None:
        self.asks, self.reads = 0, asyncio.Event()
        self.got: list[object] = []

    async def receive(self) -> dict[str, str]:
        self.asks += 1
        if self.asks == 3:
            self.reads.set()
            await asyncio.Event().wait()
        return {"type": "websocket.receive", "text": "an ask"}

    async def send_text(self, text: str) -> None:
        await self.reads.wait()
        self.got.append(text)

    async def close(self, code: int, reason: str) -> None:
        self.got.append(code)


class EndedServer:
    """Has said why it ends, and has ended."""

    close_code, close_reason = 4404, ""

    async def send(self, text: str) -> None:
        raise ConnectionClosedOK(Close(4404, ""), Close(4404, ""), rcvd_then_sent=True)

    async def __aiter__(self) -> AsyncIterator[str]:
        yield "why"


def test_who_asks_while_the_server_ends_hears_why() -> None:
    async def exchange() -> None:
        viewer, server = SlowViewer(), EndedServer()
        given: Any = (viewer, server)
        await door_sockets._exchange(*given)
        assert viewer.got == ["why", 4404]

    asyncio.run(exchange())
