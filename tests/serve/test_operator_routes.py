"""Looking at a running server, and what pages tell of the glass."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from shotstream_rt.serve.async_client import ServerError
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.server import Server

from ..patience import PATIENCE_S, wait_for

Serving = Callable[..., AbstractContextManager[tuple[Server, str]]]

CAT = "Wide shot: a red cat walks right on a beach."


@pytest.fixture
def film(url: str, http: httpx.Client) -> Any:
    """A film that plays."""
    session = http.post("/v1/sessions", json={}).json()["id"]
    with Client(url, session=session) as client:
        client.cut(CAT)
        next(client.frames(timeout_s=PATIENCE_S))
        yield client
    http.delete(f"/v1/sessions/{session}")


def test_a_look_tells_what_every_film_made_and_how(film: Client, http: httpx.Client) -> None:
    told = http.post("/v1/profile", json={"seconds": 0.5}).json()
    assert told["device"] == "cpu"
    assert told["seconds"] >= 0.5
    (mine,) = [one for one in told["sessions"] if one["id"] == film.session]
    assert mine["stages"]["chunk_ms"]["p50"] > 0
    assert mine["frames"] >= 0
    assert CAT not in json.dumps(told)


def test_a_film_that_sleeps_is_told_of_and_sleeps_on(serving: Serving) -> None:
    with serving(Limits(idle_pause_s=1)) as (server, url):
        headers = {"Authorization": f"Bearer {server.tokens.director}"}
        with httpx.Client(base_url=server.address, headers=headers, timeout=PATIENCE_S) as http:
            with Client(url, video=False) as client:
                client.pause()
            wait_for(lambda: server.films.find(client.session).asleep)
            (told,) = http.post("/v1/profile", json={"seconds": 0.1}).json()["sessions"]
            assert (told["state"], told["stages"]) == ("asleep", {})
            samples = http.get("/metrics").text.splitlines()
            assert 'shotstream_sessions{state="asleep"} 1.0' in samples


def test_a_look_can_have_a_timeline(film: Client, http: httpx.Client) -> None:
    # Twice as long as a chunk is shown: between two chunks nothing is computed.
    answer = http.post("/v1/profile", json={"seconds": 1.5, "timeline": True})
    assert answer.status_code == 200
    events = json.loads(gzip.decompress(answer.content))["traceEvents"]
    assert any("aten::" in str(event.get("name")) for event in events)


def test_one_looks_at_a_time(server: Server, film: Client, http: httpx.Client) -> None:
    first: list[int] = []
    looking = threading.Thread(
        target=lambda: first.append(http.post("/v1/profile", json={"seconds": 3}).status_code)
    )
    looking.start()
    wait_for(server.profiler._looking.locked)
    assert http.post("/v1/profile", json={"seconds": 0.1}).status_code == 429
    looking.join(PATIENCE_S)
    assert first == [200]


@pytest.mark.parametrize(
    "body", [{"seconds": 0}, {"seconds": 11}, {"seconds": "1"}, {"second": 1}, {"timeline": 1}, []]
)
def test_looks_are_bounded(http: httpx.Client, body: Any) -> None:
    assert http.post("/v1/profile", json=body).status_code == 422


def test_who_watches_does_not_look(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.tokens.viewer}"}
    place = f"{server.address}/v1/profile"
    assert httpx.post(place, json={}, headers=headers).status_code == 403
    assert httpx.post(place, json={}).status_code == 401


def glass(client: Client, ask: str, ms: float) -> Any:
    """Tell when an ask was seen."""
    return client._ask("glass", ask=ask, ms=ms)


def test_pages_tell_when_an_ask_was_seen(server: Server, film: Client) -> None:
    def told(sample: str) -> float:
        name = f"shotstream_ask_to_glass_seconds_{sample}"
        return server.metrics.registry.get_sample_value(name, {"kind": "cut"}) or 0.0

    count, total = told("count"), told("sum")
    ask = film.cut(CAT)
    with pytest.raises(ServerError, match="not shown yet"):
        glass(film, "never", 100)
    after_ms = film.outcome(ask).after_ms
    with pytest.raises(ServerError, match="went by here"):
        glass(film, ask.id, 0.5 * after_ms)
    glass(film, ask.id, after_ms + 80)
    assert told("count") == count + 1
    assert told("sum") - total == pytest.approx((after_ms + 80) / 1000)
    with pytest.raises(ServerError, match="told of already"):
        glass(film, ask.id, after_ms + 80)
    assert told("count") == count + 1
