"""Viewers that stop reading, vanish, or read a byte a second: the others do not notice.

``SHOTSTREAM_BAD_VIEWERS_S=120`` plays as many seconds without them and as many with them, and
compares what good viewers see.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import pairwise
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.fragments import read_fragment
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.server import Server

from ..patience import PATIENCE_S, wait_for
from .crowd import GoodViewer, badly_behaved, narrow, raw_viewer

pytestmark = pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)

SECONDS = float(os.environ.get("SHOTSTREAM_BAD_VIEWERS_S", "0"))
CAT = "Wide shot: a red cat walks right on a beach."
GOOD, SILENT, VANISHING = 4, 20, 20


class Served:
    """A server in a process of its own, with a film that plays."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.address, self.token = told["address"], told["token"]

    def metric(self, name: str) -> float:
        """Return a metric without labels."""
        headers = {"Authorization": f"Bearer {self.token}"}
        text = httpx.get(f"{self.address}/metrics", headers=headers, timeout=PATIENCE_S).text
        (found,) = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]
        return float(found)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    command = [sys.executable, "-m", "shotstream_rt", "serve", "--port", "0", "--json",
               "--threads", "1", "--seed", "7"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        try:
            with Client(told["url"], video=False) as client:
                client.cut(CAT)
                yield Served(told)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


@pytest.fixture
def good(served: Served) -> Iterator[list[GoodViewer]]:
    """Viewers that read what comes; the picture has begun."""
    with ExitStack() as leaving:
        viewers = []
        for _ in range(GOOD):
            viewers.append(GoodViewer(served.address, served.token))
            leaving.callback(viewers[-1].close)
        wait_for(lambda: all(len(viewer.ticks) > 16 for viewer in viewers))
        yield viewers


def test_good_viewers_get_every_frame_and_bad_ones_are_gone(
    served: Served, good: list[GoodViewer]
) -> None:
    before, given_up = served.metric("process_resident_memory_bytes"), "viewers_given_up_total"
    joined = served.metric("shotstream_viewers_joined_total") + SILENT + VANISHING + 1
    with badly_behaved(served.address, served.token, silent=SILENT, vanishing=VANISHING):
        wait_for(lambda: served.metric("shotstream_viewers_joined_total") == joined)
        # One more directs; of the bad ones those that take nothing are given up.
        wait_for(lambda: served.metric("shotstream_viewers") == GOOD + 1)
        assert served.metric(f"shotstream_{given_up}") >= SILENT + 1
        assert served.metric("process_resident_memory_bytes") - before < 64 * 2**20
        seen = [len(viewer.ticks) for viewer in good]
        wait_for(lambda: all(len(v.ticks) > n + 16 for v, n in zip(good, seen, strict=True)))
    for viewer in good:
        steps = {later - earlier for earlier, later in pairwise(viewer.ticks)}
        assert len(steps) == 1, "every frame, one after the other"
        assert viewer.skipped == 0


@pytest.mark.skipif(not SECONDS, reason="compares minutes; SHOTSTREAM_BAD_VIEWERS_S=120 does")
@pytest.mark.timeout(3600)
def test_the_play_ratio_of_good_viewers_stays(served: Served, good: list[GoodViewer]) -> None:
    def watched() -> tuple[float, float]:
        begin_s = time.monotonic()
        time.sleep(SECONDS)
        return begin_s, time.monotonic()

    alone = watched()
    with badly_behaved(served.address, served.token, silent=SILENT, vanishing=VANISHING):
        beside = watched()
    for viewer in good:
        without, with_them = viewer.play_ratio(*alone), viewer.play_ratio(*beside)
        print(f"play ratio without {without:.4f}, with them {with_them:.4f}")  # noqa: T201
        assert with_them >= without - 0.02
        assert viewer.skipped == 0


Serving = Callable[..., AbstractContextManager[tuple[Server, str]]]


def test_a_slow_viewer_goes_on_at_a_key_frame_and_is_told(serving: Serving) -> None:
    limits = Limits(viewer_frames=8, viewer_gone_s=PATIENCE_S)
    with serving(limits) as (server, url), Client(url, video=False) as client:
        client.cut(CAT)
        dropped = server.metrics.registry.get_sample_value
        # It reads no more than it must; what is between is small, so that frames are dropped soon.
        with connect(
            f"{server.address.replace('http', 'ws')}/v1/live", max_size=2**24, compression=None,
            max_queue=1, sock=narrow(server.address),
        ) as there:  # fmt: skip
            there.send(json.dumps({"type": "hello", "token": server.tokens.viewer}))
            wait_for(lambda: (dropped("shotstream_dropped_frames_total") or 0) > 8)
            before: list[int] = []
            told, head = 0, False
            while not told:
                data = there.recv(timeout=PATIENCE_S)
                if isinstance(data, bytes):
                    before += [read_fragment(data)[0]] if head else []
                    head = True
                elif json.loads(data)["type"] == "skipped":
                    told = json.loads(data)["frames"]
            while isinstance(data := there.recv(timeout=PATIENCE_S), str):
                pass
            ticks, sample = read_fragment(data)
        assert sample.key
        assert ticks - before[-1] == (told + 1) * (before[1] - before[0])


def test_who_answers_no_ping_is_gone(serving: Serving) -> None:
    with serving(Limits(viewer_gone_s=1)) as (server, url), Client(url, video=False) as client:
        client.pause()
        with raw_viewer(server.address, server.tokens.viewer) as there:
            there.settimeout(PATIENCE_S)
            while there.recv(1 << 16):  # until the server closes it
                pass
        wait_for(lambda: server.films.viewers == 1)


def test_a_live_stream_that_nobody_takes_ends(serving: Serving) -> None:
    with serving(Limits(viewer_gone_s=1)) as (server, url), Client(url, video=False) as client:
        client.cut(CAT)
        place = f"/v1/sessions/{client.session}/live.mp4"
        with narrow(server.address) as there:
            there.sendall(
                f"GET {place} HTTP/1.1\r\nHost: here\r\n"
                f"Authorization: Bearer {server.tokens.viewer}\r\n\r\n".encode()
            )
            wait_for(lambda: server.films.viewers == 2)
            wait_for(lambda: server.films.viewers == 1)
