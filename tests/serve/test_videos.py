"""Videos over HTTP: ordered, looked after, downloaded, deleted."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import av
import httpx
import pytest

from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.server import Server
from shotstream_rt.story import Story

from ..patience import wait_for

CAT = "Wide shot: a red cat walks right on a beach."


@pytest.fixture(scope="module")
def running(
    serving: Callable[..., AbstractContextManager[tuple[Server, str]]],
) -> Iterator[tuple[Server, str]]:
    with serving(Limits(videos=3)) as found:
        yield found


def made(http: httpx.Client, **order: Any) -> dict[str, Any]:
    """Order a video and wait until it is made."""
    answer = http.post("/v1/videos", json=order)
    assert answer.status_code == 201, answer.text
    place = f"/v1/videos/{answer.json()['id']}"
    wait_for(lambda: http.get(place).json()["status"] not in ("queued", "in_progress"))
    told: dict[str, Any] = http.get(place).json()
    return told


def pictures(http: httpx.Client, video: dict[str, Any]) -> list[bytes]:
    answer = http.get(f"/v1/videos/{video['id']}/content")
    assert answer.headers["content-type"] == "video/mp4"
    container: Any = av.open(io.BytesIO(answer.content))
    with container:
        return [f.to_ndarray(format="rgb24").tobytes() for f in container.decode(video=0)]


def test_a_video_of_a_prompt(http: httpx.Client) -> None:
    video = made(http, prompt=CAT, seconds="1", seed=3, model="nano")
    assert video["object"] == "video"
    assert (video["status"], video["progress"], video["error"]) == ("completed", 100, None)
    assert (video["seconds"], video["size"], video["model"]) == ("1", "160x96", "nano")
    assert video["expires_at"] == video["completed_at"] + Limits().video_keep_s
    assert video["completed_at"] >= video["created_at"]
    first = pictures(http, video)
    assert len(first) == 16
    again = made(http, prompt=CAT, seconds=1, seed=3)
    assert pictures(http, again) == first  # a seed and a text make one film
    listed = http.get("/v1/videos").json()
    assert [each["id"] for each in listed["data"]] == [again["id"], video["id"]]
    assert (listed["object"], listed["first_id"]) == ("list", again["id"])
    for each in (video, again):
        gone = http.delete(f"/v1/videos/{each['id']}").json()
        assert gone == {"id": each["id"], "object": "video.deleted", "deleted": True}
        assert http.get(f"/v1/videos/{each['id']}").status_code == 404
    assert http.get("/v1/videos").json()["data"] == []


def test_a_video_of_a_story(http: httpx.Client) -> None:
    story = Story.bundled().first(2)
    video = made(http, story={"shots": list(story.shots), "global_caption": story.global_caption})
    assert video["status"] == "completed"
    assert len(pictures(http, video)) == 2 * 81
    assert float(video["seconds"]) == 2 * 81 / 16
    http.delete(f"/v1/videos/{video['id']}")


def test_a_video_that_is_not_ready_says_so_and_can_be_deleted(http: httpx.Client) -> None:
    orders = [http.post("/v1/videos", json={"prompt": CAT, "seconds": 600}) for _ in range(3)]
    full = http.post("/v1/videos", json={"prompt": CAT})
    assert (full.status_code, full.json()["error"]["retryable"]) == (429, True)
    assert full.headers["retry-after"]
    for order in orders:
        place = f"/v1/videos/{order.json()['id']}"
        early = http.get(f"{place}/content")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "not_ready")
        assert early.json()["error"]["retryable"]
        assert http.delete(place).status_code == 200
        assert http.get(place).status_code == 404
    assert made(http, prompt=CAT, seconds=1)["status"] == "completed"  # the next one's turn


@pytest.mark.parametrize(
    "order,status,reason",
    [
        ({}, 422, "prompt"),
        ({"prompt": ""}, 422, "prompt"),
        ({"prompt": " \n\x1c"}, 422, "prompt"),
        ({"prompt": CAT, "story": {"shots": [CAT]}}, 422, "prompt"),
        ({"story": {"shots": []}}, 422, "shots"),
        ({"story": {"shots": [CAT, " "]}}, 422, "shots.1"),
        ({"prompt": CAT, "seconds": 0}, 422, "seconds"),
        ({"prompt": CAT, "seconds": "601"}, 422, "seconds"),
        ({"prompt": CAT, "size": "1x1"}, 422, "size"),
        ({"prompt": CAT, "seed": -1}, 422, "seed"),
        ({"prompt": CAT, "model": "sora"}, 404, "nano"),
        ([], 422, "body"),
    ],
)
def test_what_is_no_order_is_refused_by_name(
    http: httpx.Client, order: Any, status: int, reason: str
) -> None:
    answer = http.post("/v1/videos", json=order)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert reason in error["message"]
    assert not error["retryable"]


def test_videos_end_in_their_time(
    serving: Callable[..., AbstractContextManager[tuple[Server, str]]],
) -> None:
    with serving(Limits(video_keep_s=1)) as (server, _):
        headers = {"Authorization": f"Bearer {server.tokens.director}"}
        with httpx.Client(base_url=server.address, headers=headers) as http:
            http.post("/v1/videos", json={"prompt": CAT, "seconds": 1}).raise_for_status()
            wait_for(lambda: http.get("/v1/videos").json()["data"] == [])
