"""``doctor``: a healthy server passes, and what is wrong is named."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from shotstream_rt.cli import main
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
