"""``doctor``: a healthy server passes, and what is wrong is named."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from shotstream_rt.cli import main
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.doctor import Doctor
from shotstream_rt.serve.server import Server

from ..patience import PATIENCE_S


def test_a_healthy_server_passes_and_nothing_is_left_behind(
    server: Server, url: str, http: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", url, "--timeout", str(PATIENCE_S)]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["passed"]
    assert report["url"] == server.address  # without the token
    assert server.tokens.director not in out + err
    steps = {step.pop("name"): step for step in report["steps"]}
    assert all(step["passed"] for step in steps.values())
    assert steps["cut"]["first_frame_ms"] > 0
    assert steps["resume"]["missed"] == 0
    assert steps["video"]["frames"] == 16
    assert steps["join"]["queue_ms"] == 0
    assert err.count(" ok ") == len(steps) == 12
    assert http.get("/v1/sessions").json()["sessions"] == []
    assert http.get("/v1/videos").json()["data"] == []


def test_a_server_that_plays_one_film_is_healthy_too(
    serving: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(capacity=1) as (_, url):
        assert main(["doctor", url, "--timeout", str(PATIENCE_S)]) == 0
    steps = {step["name"]: step for step in json.loads(capsys.readouterr().out)["steps"]}
    assert "waits in line" in steps["branch"]["left_out"]


def test_a_server_that_has_no_place_says_so(
    serving: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(capacity=1) as (_, url), Client(url) as playing:
        playing.cut("Wide shot: a red cat walks right on a beach.")
        assert main(["doctor", url, "--timeout", "3"]) == 1
    out, err = capsys.readouterr()
    step = json.loads(out)["steps"][-1]
    assert (step["name"], step["error"]["code"]) == ("join", "full")
    assert "waits in line, 1 of 1" in step["error"]["message"]
    assert err.count("waits in line") == 2  # when it came, and at the end


def test_the_wait_for_a_place_is_measured(serving: Any) -> None:
    with serving(capacity=1) as (server, url):
        headers = {"Authorization": f"Bearer {server.tokens.director}"}
        places = f"{server.address}/v1/sessions"
        first = httpx.post(places, headers=headers).json()["id"]
        lines: list[str] = []

        def tell(line: str) -> None:
            lines.append(line)
            if "waits in line" in line:
                httpx.delete(f"{places}/{first}", headers=headers)

        report = asyncio.run(Doctor(url, timeout_s=PATIENCE_S, tell=tell).examine())
    assert report["passed"]
    steps = {step["name"]: step for step in report["steps"]}
    assert steps["join"]["queue_ms"] > 0
    assert sum("waits in line" in line for line in lines) == 1


@pytest.mark.parametrize(
    "which,step,code", [("viewer", "open", "forbidden"), ("nobody", "open", "unauthorized")]
)
def test_what_is_wrong_is_named(
    server: Server, which: str, step: str, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token = server.tokens.viewer if which == "viewer" else "nobody"
    assert main(["doctor", server.address, "--token", token]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["passed"]
    assert (report["steps"][-1]["name"], report["steps"][-1]["error"]["code"]) == (step, code)


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "http://127.0.0.1:9/#token=some"]) == 1
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    assert (step["name"], step["error"]["code"]) == ("reach", "unavailable")
    assert step["error"]["retryable"]


@pytest.mark.parametrize(
    "words,reason",
    [(["http://127.0.0.1:9"], "token"), (["127.0.0.1:9", "--token", "x"], "url"),
     (["http://[::1", "--token", "x"], "url"), (["http://a", "--timeout", "0"], "--timeout")],
)  # fmt: skip
def test_mistakes_are_named(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *words]) == 2
    assert reason in capsys.readouterr().err


def test_what_was_opened_is_closed_after_a_failure(url: str, http: httpx.Client) -> None:
    class Broken(Doctor):
        async def _prompt(self) -> dict[str, Any]:
            raise ValueError("as a test")

    report = asyncio.run(Broken(url, timeout_s=PATIENCE_S).examine())
    assert report["steps"][-1]["error"]["message"] == "ValueError: as a test"
    assert http.get("/v1/sessions").json()["sessions"] == []
