"""Two servers of a Ray cluster on this machine, behind one address, one of which is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from shotstream_rt.cli import main
from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.project_layout import NANO_FOLDER

from ..patience import PATIENCE_S
from .server_process import ServerProcess, Watcher, server_process
from .test_crash import CAT, CHUNK, ROBOT, SEED, pictures_of, undisturbed

KILLS = int(os.environ.get("SHOTSTREAM_RAY_KILLS", "1"))


@pytest.fixture
def ray_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray on this machine alone, which keeps its token out of the home folder."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'shotstream_rt[ray]'")
    if not (NANO_FOLDER / "student.json").is_file():
        pytest.skip("this checkout has no nano weights")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def process_of(store: Path, film: str) -> int:
    """The process that runs a film, as its lease says."""
    return int(json.loads((store / film / "lease").read_text())["process"])


def come_back(watcher: Watcher, server: ServerProcess, film: str) -> None:
    """Join a film as a page does that has lost its connection: again and again."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            watcher.join(server.address, film)
            return
        except (AssertionError, ConnectionClosed, TimeoutError):  # nobody has it yet
            time.sleep(0.2)
    raise AssertionError(f"the film {film} did not come back")


@pytest.mark.ray
def test_a_film_goes_on_when_its_server_is_killed(ray_here: None, tmp_path: Path) -> None:
    store, watcher, chance = tmp_path / "films", Watcher(), random.Random(3)
    texts = (CAT, ROBOT)[: 1 + KILLS // 4]
    with Model.open("nano", threads=1) as model:
        expected, directions = undisturbed(model, lambda session: [session.cut(t) for t in texts])
    with server_process(store, "--ray", "2", "--at-end", "hold") as server:
        films = [server.open(SEED) for _ in range(2)]
        first, second = (process_of(store, film) for film in films)
        assert first != second, "a new film goes where there is most room"
        listed = server.http.get("/v1/sessions").json()
        assert {film["id"] for film in listed["sessions"]} == set(films)
        film = films[0]
        watcher.join(server.address, film)
        for text in texts:
            assert watcher.ask("cut", text=text, now=False)["type"] == "accepted"
        for kill in range(KILLS):
            left = len(expected) - 2 - watcher.last
            watcher.see(watcher.last + chance.randint(1, max(1, left // (KILLS - kill + 1))))
            os.kill(process_of(store, film), signal.SIGKILL)
            come_back(watcher, server, film)
        watcher.see(len(expected) - 1)
        watcher.leave()
        file = server.http.get(f"/v1/sessions/{film}/film.mp4").content
        made = server.http.get(f"/v1/sessions/{film}/film.json").json()
        assert process_of(store, film) != first
        server.end()
    print("sent twice after each kill:", watcher.twice)  # noqa: T201
    assert pictures_of(file) == expected
    assert made["directions"] == directions["directions"]
    # A chunk, and what a busy machine shows while it is being written.
    assert max(watcher.twice) <= 2 * CHUNK
    with pytest.raises(httpx.TransportError):
        httpx.get(server.address)


@pytest.mark.parametrize(
    "films,places,wanted",
    [
        ({}, {}, 3),  # nothing is known yet: as it is
        ({"a": 0}, {"a": 4}, 1),
        ({"a": 3}, {"a": 4}, 1),
        ({"a": 4}, {"a": 4}, 2),
        ({"a": 4, "b": 1}, {"a": 4, "b": 4}, 2),
        ({"a": 1, "b": 1}, {"a": 1, "b": 1}, 3),
        ({"a": 0, "b": 1}, {"a": 2, "b": 2}, 1),
    ],
)
def test_servers_play_the_films_there_are_and_one_more(
    films: dict[str, float], places: dict[str, float], wanted: int
) -> None:
    name = "shotstream_rt.serve.ray_stations"
    ray_stations = pytest.importorskip(name, exc_type=ModuleNotFoundError)
    told = {"films": films, "places": places}
    context = SimpleNamespace(aggregated_metrics=told, target_num_replicas=3)
    assert ray_stations.servers_for(context) == (wanted, {})


@pytest.mark.parametrize(
    "words,reason",
    [
        (["--ray", "two"], "wanted a number of servers"),
        (["--ray", "3-2", "--store", "films"], "wanted a number of servers"),
        (["--ray", "0", "--store", "films"], "wanted a number of servers"),
        (["--ray", "2"], "--store"),
    ],
)
def test_mistakes_are_told_before_anything_is_started(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", *words]) == 2
    assert reason in capsys.readouterr().err
