"""``python -m shotstream_rt serve``: starting, ending, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from shotstream_rt.cli import main
from shotstream_rt.loading.project_layout import NANO_FOLDER

from ..patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "shotstream_rt", "serve", "--port", "0"]


@pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_it_prints_its_address_serves_and_ends_quietly(number: int, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789-abcdef")
    words = ["--json", "--threads", "1", "--token-file", str(tmp_path / "token")]
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["url"] == f"{told['address']}/#token=0123456789-abcdef"
        assert told["address"].startswith("http://127.0.0.1:")
        while True:
            try:
                page = httpx.get(told["address"], timeout=PATIENCE_S)
                break
            except httpx.TransportError:
                assert process.poll() is None
        assert "<title>ShotStream desk</title>" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for name in ("desk.js", "elements.js", "pictures.js", "player.js", "desk.css", "icon.svg"):
            answer = httpx.get(f"{told['address']}/{name}", timeout=PATIENCE_S)
            assert answer.status_code == 200
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "Traceback" not in err


@pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)
def test_it_ends_while_it_measures_and_tells_who_waits(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789-abcdef")
    words = ["--token-file", str(tmp_path / "token"), "--store", str(tmp_path / "store")]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.serve.measuring_server", *words], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert process.stdout.readline() == "measuring\n"
        with connect(f"{told['address'].replace('http', 'ws')}/v1/live") as socket:
            socket.send(json.dumps({"type": "hello", "token": "0123456789-abcdef"}))
            message = json.loads(socket.recv(timeout=PATIENCE_S))
            assert message["type"] == "loading"
            process.send_signal(signal.SIGTERM)
            while message["type"] == "loading":
                message = json.loads(socket.recv(timeout=PATIENCE_S))
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=PATIENCE_S)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (message["type"], message["code"]) == ("error", "unavailable")
    assert (message["retryable"], socket.close_code) == (True, 4503)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_a_model_that_cannot_be_loaded_ends_it() -> None:
    run = subprocess.run(
        [*COMMAND, "--model", "/nowhere/at/all", "--json"],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "/nowhere/at/all" in run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["kind"] == "WeightsError"


@pytest.mark.parametrize(
    "words,reason",
    [
        (["--port", "99999"], "--port"),
        (["--sessions", "0"], "--sessions"),
        (["--at-end", "stop"], "--at-end"),
        (["--host", "256.0.0.1"], "--host"),
        (["--token-file", "/nowhere"], "token"),
        (["--seed", "-1"], "--seed"),
        (["--profile", "best"], "profile"),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", *words]) == 2
    assert reason in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "--port 0" in capsys.readouterr().err
