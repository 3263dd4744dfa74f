"""Log lines as JSON: what they carry, and that every line of a server is one."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shotstream_rt.film.threads import WorkerThread
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.logs import JsonLines, about, session_id

from ..patience import PATIENCE_S

log = logging.getLogger("test-logs")


class Lines(logging.Handler):
    """Keeps what was logged, read back from JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.told: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        assert "\n" not in line
        self.told.append(json.loads(line))


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The lines of ``log``."""
    handler = Lines()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler.told
    log.removeHandler(handler)


def test_a_line_has_what_was_said_before_and_what_the_call_gives(
    lines: list[dict[str, Any]],
) -> None:
    with about(session="s1"):
        with about(ask="a1"):
            log.info("two\nlines of %s", "text", extra={"after_ms": 12.5})
        log.warning("one")
    log.info("none")
    first, second, third = lines
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info", "logger": "test-logs", "message": "two\nlines of text", "session": "s1",
        "ask": "a1", "after_ms": 12.5,
    }  # fmt: skip
    assert (second["level"], second["session"]) == ("warning", "s1")
    assert "ask" not in second
    assert "session" not in third


def test_errors_are_told_and_nothing_is_longer_than_it_may_be(lines: list[dict[str, Any]]) -> None:
    try:
        raise ValueError("x" * 10_000)
    except ValueError:
        log.exception("y" * 10_000)
    assert len(lines[0]["message"]) == len(lines[0]["error"]) == 4000
    assert lines[0]["error"].endswith("xxx")


def test_threads_of_a_film_are_about_it() -> None:
    found: list[str | None] = []
    with about(session="s2"):
        worker = WorkerThread("test-worker", lambda: found.append(session_id()), 1)
    worker.start()
    worker.join(PATIENCE_S)
    other = threading.Thread(target=lambda: found.append(session_id()))
    other.start()
    other.join(PATIENCE_S)
    assert found == ["s2", None]


@pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)
def test_every_line_of_a_server_is_json_and_leads_from_an_ask_to_its_shot() -> None:
    command = [sys.executable, "-m", "shotstream_rt", "serve", "--port", "0", "--json",
               "--threads", "1", "--log", "json"]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "SHOTSTREAM_LOG"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with Client(url, video=False) as client:
            ask = client.cut("Wide shot: a red cat walks right on a beach.")
            client.outcome(ask)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_S)
    told = [json.loads(line) for line in err.splitlines()]
    mine = [line for line in told if line.get("session") == client.session]
    messages = [line["message"] for line in mine]
    for wanted in ("film opened", "viewer joined", "cut: applied", "viewer left"):
        assert wanted in messages
    (applied,) = [line for line in mine if line["message"] == "cut: applied"]
    assert (applied["ask"], applied["kind"]) == (ask.id, "cut")
    assert applied["after_ms"] > 0
    assert "shotstream_rt.film.shot_maker" in {line["logger"] for line in mine}
    assert url.partition("token=")[2] not in err
