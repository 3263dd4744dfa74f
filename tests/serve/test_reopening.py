"""Films of a store through the server: found again, held by one, damaged, deleted, let go."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from shotstream_rt.serve.client import Client
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.saved_film import _packed, _unpacked
from shotstream_rt.serve.server import Server
from shotstream_rt.serve.store import FolderStore

from ..patience import PATIENCE_S, wait_for
from .server_process import Watcher, server_process
from .test_going_back import CAT, ROBOT, decoded, look

Serving = Callable[..., AbstractContextManager[tuple[Server, str]]]


def client_of(server: Server) -> httpx.Client:
    headers = {"Authorization": f"Bearer {server.tokens.director}"}
    return httpx.Client(base_url=server.address, headers=headers, timeout=PATIENCE_S)


def told(url: str, hello: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """What a socket is told at first besides ``loading``, and the code that it is closed with."""
    address = url.partition("/#")[0].replace("http", "ws") + "/v1/live"
    with connect(address, compression=None) as socket:
        socket.send(json.dumps({"type": "hello", "token": url.partition("token=")[2], **hello}))
        message = json.loads(socket.recv(PATIENCE_S))
        while message["type"] == "loading":
            message = json.loads(socket.recv(PATIENCE_S))
        with suppress(ConnectionClosed):
            while True:
                socket.recv(PATIENCE_S)
        return message, socket.close_code


def test_a_film_goes_on_in_another_server(serving: Serving, tmp_path: Path) -> None:
    store = tmp_path / "films"
    with serving(store=FolderStore(store)) as (server, url), client_of(server) as http:
        film = http.post("/v1/sessions", json={"seed": 3}).json()["id"]
        with Client(url, session=film) as client:
            client.cut(CAT)
            look(client, 15)
            branch = client.branch()
            client.pause()
            wait_for(lambda: http.get(f"/v1/sessions/{film}").json()["state"] == "paused")
        pictures = decoded(http.get(f"/v1/sessions/{film}/film.mp4").content)
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            http.get("/v1/sessions/nothing").raise_for_status()
    assert set(FolderStore(store).films()) == {film, branch}
    with serving(store=FolderStore(store)) as (server, url), client_of(server) as http:
        listed = http.get("/v1/sessions").json()
        assert (listed["sessions"], set(listed["stored"])) == ([], {film, branch})
        found = http.get(f"/v1/sessions/{film}").json()
        assert (found["state"], found["frames"] >= 15) == ("asleep", True)
        again = decoded(http.get(f"/v1/sessions/{film}/film.mp4").content)
        assert again[: len(pictures)] == pictures
        assert http.get(f"/v1/sessions/{film}/film.json").json()["frames"] == len(again)
        with Client(url, session=film) as client:
            assert list(client.takes) == [(0, 0)]
            client.resume()
            cut = client.outcome(client.cut(ROBOT))
            look(client, 3)
            assert (cut.shot, cut.index >= len(again)) == (1, True)
            more = decoded(client.download())
        assert more[: len(again)] == again
        # Nobody watched the branch, so it stood still; it has the past and goes on by itself.
        assert http.delete(f"/v1/sessions/{branch}").status_code == 204
        assert http.get(f"/v1/sessions/{branch}").status_code == 404
        assert http.delete(f"/v1/sessions/{film}").status_code == 204
        assert http.get("/v1/sessions").json() == {"sessions": [], "stored": []}
    assert list(store.iterdir()) == []


def test_a_film_of_the_store_that_sleeps_takes_no_place(serving: Serving, tmp_path: Path) -> None:
    limits = Limits(sessions=2, idle_pause_s=1, idle_sleep_s=1)
    store = FolderStore(tmp_path / "films")
    with serving(limits, store=store) as (server, url), client_of(server) as http:

        def state(film: str) -> str:
            found = [one["state"] for one in http.get("/v1/sessions").json()["sessions"]
                     if one["id"] == film]  # fmt: skip
            return found[0] if found else "stored"

        with Client(url) as watched:
            watched.cut(CAT)
            first = http.post("/v1/sessions").json()["id"]
            assert http.post("/v1/sessions").status_code == 429, "both play"
            wait_for(lambda: state(first) == "asleep")
            second = http.post("/v1/sessions").json()["id"]
            assert (state(first), state(watched.session)) == ("stored", "playing")
            wait_for(lambda: state(second) == "asleep")
            with Client(url, session=first) as client:
                client.cut(CAT)
                look(client, 3)
                assert state(second) == "stored"
                assert http.get(f"/v1/sessions/{second}").status_code == 429
        assert set(store.films()) == {watched.session, first, second}


def test_held_or_damaged(serving: Serving, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    store = FolderStore(folder)
    with serving(store=store) as (server, url), client_of(server) as http:
        films = [http.post("/v1/sessions").json()["id"] for _ in range(3)]
    held, damaged, foreign = films
    lease = store.claim(held)
    (folder / damaged / "state").write_bytes(b"SHOTSTREAM-FILM\n" + b"x" * 100)
    state, snapshot = _unpacked(foreign, (folder / foreign / "state").read_bytes())
    (folder / foreign / "state").write_bytes(_packed(state, snapshot[:-1]))
    with serving(store=store) as (server, url), client_of(server) as http:
        for id, status, code, close in (
            (held, 503, "unavailable", 4503), (damaged, 500, "failed", 1011),
            (foreign, 200, "failed", 1011),
        ):  # fmt: skip
            answer = http.get(f"/v1/sessions/{id}")
            assert answer.status_code == status
            if status != 200:  # a film that cannot be played can still be looked at
                assert answer.json()["error"]["code"] == code
            assert str(tmp_path) not in answer.text
            message, closed = told(url, {"session": id})
            assert (message["type"], message["code"], closed) == ("error", code, close)
        assert http.delete(f"/v1/sessions/{held}").status_code == 503
        lease.release()
        assert http.get(f"/v1/sessions/{held}").status_code == 200
        # What cannot be opened can be deleted.
        for id in films:
            assert http.delete(f"/v1/sessions/{id}").status_code == 204
    assert store.films() == ()


def test_told_to_end(tmp_path: Path) -> None:
    store, watcher = tmp_path / "films", Watcher()
    with server_process(store) as server:
        film = server.open(5)
        watcher.join(server.address, film)
        watcher.ask("cut", text=CAT)
        watcher.see(14)
        err = server.end()
        ended = watcher.until_ended()
    assert "Traceback" not in err
    assert ended == {"type": "ended", "message": "the server ends", "reason": "server"}
    state, _ = _unpacked(film, (store / film / "state").read_bytes())
    # All of it was seen, and it is in the store: to the end of a chunk, if that came in time.
    assert state.frames == state.index == watcher.last + 1
    assert json.loads((store / film / "film.json").read_text())["frames"] == state.index
    FolderStore(store).claim(film).release()


def test_a_viewer_comes_back(serving: Serving) -> None:
    """Also to a server that was there all the time: with the frames that it has not seen."""
    with serving() as (server, url), client_of(server) as http:
        film = http.post("/v1/sessions").json()["id"]
        with Client(url, session=film) as stays:
            stays.cut(CAT)
            look(stays, 12)
            watcher = Watcher(token=server.tokens.director)
            watcher.join(server.address, film)
            watcher.see(30)
            watcher.leave()
            look(stays, 5)
            watcher.join(server.address, film)  # which checks that no frame is left out
            watcher.see(watcher.last + 10)
            watcher.leave()
            assert watcher.twice == [0]


def test_no_film_is_opened_when_the_server_ends(serving: Serving) -> None:
    with serving() as (server, url), client_of(server) as http:
        film = http.post("/v1/sessions").json()["id"]
        server.films.ending = True
        answer = http.post("/v1/sessions")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        with Client(url, session=film) as client, pytest.raises(Exception, match="it ends"):
            client.branch()
