"""Directing from a program: both clients against a real server with nano."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import av
import httpx
import pytest
from PIL import Image

from shotstream_rt.errors import ConfigError, FrameTimeoutError, SessionClosedError
from shotstream_rt.serve.async_client import AsyncClient, ServerError
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.fragments import KEY_FRAME_S
from shotstream_rt.serve.from_server import Applied
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.sent_asks import SentAsk
from shotstream_rt.serve.server import Server

from ..patience import PATIENCE_S

CAT = "Wide shot: a red cat walks right on a beach."
ROBOT = "Close-up: a blue robot stands still in a forest."


def test_a_film_is_directed_in_an_event_loop(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={"seed": 1}).json()["id"]

    async def direct() -> None:
        async with await AsyncClient.join(url, session=session) as client:
            assert client.session == session
            frames = client.frames(timeout_s=PATIENCE_S)
            first = await client.cut(CAT)
            assert first.notes == ()
            async for frame in frames:
                assert frame.pixels.shape == (96, 160, 3)
                assert frame.pixels.std() > 10
                if frame.frame == 15:
                    break
            began = await client.outcome(first)
            assert isinstance(began, Applied)
            assert (began.kind, began.shot, began.frame, began.index) == ("cut", 0, 0, 0)
            second = await client.cut(ROBOT)
            cut = await client.outcome(second)
            assert isinstance(cut, Applied)
            assert (cut.shot, cut.take, cut.chunk) == (1, 0, 0)
            assert cut.frame > 15
            numbers = []
            async for frame in frames:
                numbers.append(frame.frame)
                if frame.frame == cut.frame:
                    break
            assert numbers == list(range(numbers[0], cut.frame + 1))
            retaken = await client.outcome(await client.retake())
            assert isinstance(retaken, Applied)
            assert (retaken.shot, retaken.take) == (1, 1)
            steered = await client.outcome(await client.prompt("Close-up: a blue robot jumps."))
            assert isinstance(steered, Applied)
            assert (steered.shot, steered.take) == (1, 1)
            assert [take.caption for take in client.takes.values()] == [CAT, ROBOT, ROBOT]
            assert all(t.picture.startswith("data:image/jpeg") for t in client.takes.values())
            assert await client.check("a red dog") != ()

    asyncio.run(direct())
    http.delete(f"/v1/sessions/{session}")


def test_a_cut_sees_pictures(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={}).json()["id"]
    out = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 30, 30)).save(out, "PNG")
    with Client(url, session=session) as client:
        assert client.welcome.images == 4
        told = client.outcome(client.cut(CAT, images=[out.getvalue()]))
        next(client.frames(timeout_s=PATIENCE_S))
        made = client.directions()
        with pytest.raises(ServerError, match="at most 4") as refused:
            client.cut(CAT, images=[out.getvalue()] * 5)
    assert told.shot == 0
    assert refused.value.code == "refused"
    (digest,) = made["pictures"]
    assert made["directions"][0]["images"] == [digest]
    http.delete(f"/v1/sessions/{session}")


def test_a_film_is_directed_from_a_thread(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={}).json()["id"]
    with Client(url, session=session) as client:
        told = client.outcome(client.cut(CAT))
        assert told.shot == 0
        seen = [frame.frame for frame in itertools.islice(client.frames(timeout_s=PATIENCE_S), 20)]
        assert seen == list(range(20))
        file = client.download()
        assert client.stats is not None
    with av.open(io.BytesIO(file)) as container:
        assert len(list(container.decode(video=0))) >= 20
    http.delete(f"/v1/sessions/{session}")


def test_who_joins_late_begins_at_a_key_frame_and_sees_the_same(
    url: str, http: httpx.Client
) -> None:
    session = http.post("/v1/sessions", json={"seed": 3}).json()["id"]
    with Client(url, session=session) as first:
        first.cut(CAT)
        frames, mine = first.frames(timeout_s=PATIENCE_S), {}
        while len(mine) < 20:
            seen = next(frames)
            mine[seen.frame] = seen.pixels
        with Client(url, session=session) as late:
            assert late.welcome.begun
            assert list(late.takes) in ([], [(0, 0)])  # it may still be on its way
            shown = itertools.islice(late.frames(timeout_s=PATIENCE_S), 10)
            theirs = {seen.frame: seen.pixels for seen in shown}
        every = KEY_FRAME_S * first.welcome.frame_rate_hz
        assert min(theirs) % every == 0  # a key frame, and the last one
        assert min(theirs) + every > 19
        while max(mine) < max(theirs):
            seen = next(frames)
            mine[seen.frame] = seen.pixels
        assert all((theirs[n] == mine[n]).all() for n in theirs)
    http.delete(f"/v1/sessions/{session}")


def test_a_repeated_id_is_answered_and_not_done_again(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={}).json()["id"]

    async def repeat() -> None:
        async with await AsyncClient.join(url, session=session, video=False) as client:
            answer = await client.cut(CAT, now=False)
            state = http.get(f"/v1/sessions/{session}").json()
            loop = asyncio.get_running_loop()
            again = loop.create_future()
            client._asks._waiting[answer.id] = SentAsk(answer.id, "", again)
            text = f'{{"type": "cut", "id": "{answer.id}", "text": "{CAT}", "now": false}}'
            await client._socket.send(text)
            assert (await again).id == answer.id
            await client.outcome(answer)
            await asyncio.sleep(0.5)
            assert len(client.takes) == 1
            assert state["id"] == session

    asyncio.run(repeat())
    http.delete(f"/v1/sessions/{session}")


def test_a_waiting_shot_can_be_taken_back(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={}).json()["id"]
    with Client(url, session=session) as client:
        client.pause()  # so that it waits however long the asks take
        client.cut(CAT)
        queued = client.cut(ROBOT, now=False)
        assert client.cancel(queued.id).notes == ()
        assert client.outcome(queued).state == "cancelled"
        assert client.cancel(queued.id).notes == ("it has begun, or is over",)
    http.delete(f"/v1/sessions/{session}")


def test_waiting_for_a_frame_can_end_in_time(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={}).json()["id"]
    with Client(url, session=session) as client, pytest.raises(FrameTimeoutError):
        next(client.frames(timeout_s=0.1))
    http.delete(f"/v1/sessions/{session}")


def test_a_closed_film_says_so_to_all_who_wait(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={}).json()["id"]
    with Client(url, session=session) as client:
        closing = threading.Timer(0.2, http.delete, (f"/v1/sessions/{session}",))
        closing.start()
        with pytest.raises(SessionClosedError, match="it was closed"):
            next(client.frames(timeout_s=PATIENCE_S))
        closing.join()
        with pytest.raises(SessionClosedError):
            client.cut(CAT)


def test_joining_is_refused_by_name(server: Server, url: str) -> None:
    with pytest.raises(ConfigError, match="none in the address"):
        Client(server.address)
    with pytest.raises(ConfigError, match="http"):
        Client("localhost:80", token="x")
    for wrong, code in (
        ({"token": "y" * 32}, "unauthorized"),
        ({"session": "nothing"}, "not_found"),
    ):
        with pytest.raises(ServerError) as refused:
            Client(url, **wrong)
        assert refused.value.code == code
    with pytest.raises(ServerError, match="cannot be reached"):
        Client("http://127.0.0.1:9/#token=abc")


def test_a_lost_connection_comes_back_and_no_frame_twice(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={"seed": 4}).json()["id"]
    with Client(url, session=session) as client:
        client.cut(CAT)
        frames, seen = client.frames(timeout_s=PATIENCE_S), []
        while len(seen) < 60:
            seen.append(next(frames).frame)
            if len(seen) in (10, 25, 40):
                client.lose()
        assert client.reconnects == 3
        assert client.session == session
        assert seen == list(range(seen[0], seen[0] + 60))  # each of them, in order
    http.delete(f"/v1/sessions/{session}")


def test_asks_outlive_a_lost_connection(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={"seed": 5}).json()["id"]

    async def direct() -> None:
        async with await AsyncClient.join(url, session=session, video=False) as client:
            first = await client.cut(CAT)
            client.lose()  # before it is known what becomes of it
            applied = await client.outcome(first, timeout_s=PATIENCE_S)
            assert applied.id == first.id
            asking = asyncio.create_task(client.cut(ROBOT))
            await asyncio.sleep(0)  # it is on its way
            client.lose()
            second = await asking
            assert (await client.outcome(second, timeout_s=PATIENCE_S)).id == second.id
            assert client.reconnects == 2
            assert {shot for shot, _ in client.takes} <= {0, 1}  # it was not done twice

    asyncio.run(direct())
    http.delete(f"/v1/sessions/{session}")


def test_coming_back_ends_where_the_film_is_gone_or_time_is_up(
    url: str, server: Server, http: httpx.Client
) -> None:
    session = http.post("/v1/sessions", json={}).json()["id"]
    with Client(url, session=session, reconnect_s=0) as client:
        client.lose()
        with pytest.raises(SessionClosedError, match="connection"):
            next(client.frames(timeout_s=PATIENCE_S))
        with pytest.raises(SessionClosedError, match="connection"):
            client.cut(CAT)
    token = server.tokens.mint("director", session, expires_at=int(time.time()) + 2)
    with (
        Client(server.address, token=token) as client,
        pytest.raises(SessionClosedError, match="it has ended"),
    ):
        next(client.frames(timeout_s=PATIENCE_S))
    http.delete(f"/v1/sessions/{session}")


def test_waiting_for_what_becomes_of_an_ask_can_end_in_time(url: str, http: httpx.Client) -> None:
    session = http.post("/v1/sessions", json={}).json()["id"]
    with Client(url, session=session, video=False) as client:
        client.pause()
        client.cut(CAT)
        with pytest.raises(FrameTimeoutError):
            client.outcome(client.cut(ROBOT, now=False), timeout_s=0.1)
    http.delete(f"/v1/sessions/{session}")


def test_who_asks_too_fast_is_told_so(
    serving: Callable[..., AbstractContextManager[tuple[Server, str]]],
) -> None:
    with serving(Limits(messages_per_second=1)) as (_, url), Client(url, video=False) as client:
        with pytest.raises(ServerError) as refused:
            for _ in range(100):
                client.check(CAT)
        assert (refused.value.code, refused.value.retryable) == ("too_fast", True)
