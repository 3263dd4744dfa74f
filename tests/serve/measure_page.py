"""Measure how live the page is: from encoding a frame to showing it, cadence, memory.

A source of stamped pictures takes the place of the model, so that the machine keeps up and only the
way to the glass is measured: every frame carries its number in its pixels, and the page reads it
from what the browser shows. Prints one JSON object.

    python tests/serve/measure_page.py --seconds 60
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import sync_playwright

from shotstream_rt.serve import films, live_film, shared_model
from shotstream_rt.serve.film_settings import FilmSettings
from shotstream_rt.serve.server import Server
from shotstream_rt.types import Frame

RATE_HZ = 16
SIZES = {"small": (96, 160), "large": (480, 832)}

READ = """() => {
  const video = document.querySelector("video"), seen = window.seen = [];
  const canvas = Object.assign(document.createElement("canvas"), {width: 160, height: 8});
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  const look = (now, meta) => {
    pen.drawImage(video, 0, 0, video.videoWidth, video.videoHeight / 12, 0, 0, 160, 8);
    const row = pen.getImageData(0, 4, 160, 1).data;
    let number = 0;
    for (let bit = 0; bit < 16; bit++) if (row[(bit * 10 + 5) * 4] > 127) number |= 1 << bit;
    seen.push([number, performance.timeOrigin + meta.expectedDisplayTime]);
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
}"""


class StampedSession:
    """Plays noise that moves, with the frame's number in its upper rows.

    Args:
        size: height and width in pixels.
    """

    frame_rate_hz, failed, closed = RATE_HZ, None, True
    memory: tuple[Any, ...] = ()
    context_frames = 0

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        cells = np.random.default_rng(0).integers(0, 255, (size[0] // 8, size[1] // 8, 3), np.uint8)
        self._picture = cells.repeat(8, 0).repeat(8, 1)
        self._ended = threading.Event()

    def stream(self, *, follow: bool) -> Iterator[Frame]:
        """Yield frames as fast as they are taken."""
        height, width = self.size
        number = 0
        while not self._ended.is_set():
            pixels = np.roll(self._picture, 2 * number, 1)
            bits = [255 * (number >> bit & 1) for bit in range(16)]
            pixels[: height // 12] = np.repeat(bits, width // 16).astype(np.uint8)[None, :, None]
            yield Frame(pixels, number, 0, number // 12, number / RATE_HZ, 0, "stamped")
            number += 1

    def on_event(self, listener: Any) -> Callable[[], None]:
        """Nothing happens here."""
        return lambda: None

    def pause(self) -> None:
        """Go on all the same."""

    resume = pause

    async def aclose(self) -> None:
        """End ``stream``."""
        self._ended.set()


class StampedModel:
    """Makes such sessions.

    Args:
        size: height and width in pixels.
    """

    frame_rate_hz, device = RATE_HZ, torch.device("cpu")

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def session(self, **options: Any) -> StampedSession:
        """Return a session."""
        return StampedSession(self.size)

    def close(self) -> None:
        """Nothing is held."""


def percentiles(values: list[float]) -> dict[str, float]:
    found = np.percentile(values, [50, 95, 99])
    return {"p50": round(found[0], 1), "p95": round(found[1], 1), "p99": round(found[2], 1)}


def measure(page: Any, released: dict[int, float], seconds: float) -> dict[str, Any]:
    """Watch for some time and sum up what was seen."""
    page.evaluate(READ)
    heap, buffered, lags = [], [], []
    protocol = page.context.new_cdp_session(page)
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        page.wait_for_timeout(1000)
        buffered.append(page.evaluate("desk.bufferedS"))
        lags.append(page.evaluate("desk.lagS"))
        if len(lags) % 5 == 0:  # collecting stops the page for a moment
            protocol.send("HeapProfiler.collectGarbage")
            heap.append(page.evaluate("performance.memory.usedJSHeapSize") / 2**20)
    seen = page.evaluate("seen")[RATE_HZ:]  # the first second is the way to the newest frame
    latency = [at - 1000 * released[number] for number, at in seen if number in released]
    gaps = [(b[1] - a[1]) * RATE_HZ / 1000 for a, b in itertools.pairwise(seen)]
    slope = np.polyfit(np.arange(len(heap)) / 12, heap, 1)[0] if len(heap) > 5 else None
    return {
        "frames": len(seen),
        "missing": seen[-1][0] - seen[0][0] + 1 - len({number for number, _ in seen}),
        "latency_ms": percentiles(latency),
        "cadence_frames": percentiles(gaps),
        "behind_s": percentiles(lags),
        "buffered_s_max": round(max(buffered), 1),
        "heap_mib_per_minute": None if slope is None else round(float(slope), 3),
    }


def run(size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Serve stamped pictures to a browser and measure."""
    released: dict[int, float] = {}

    class Noting(live_film.LiveFilm):
        def _show(self, played: Any) -> None:
            released[played.number] = time.time()
            super()._show(played)

    films.LiveFilm = Noting  # type: ignore[misc]
    shared_model.Model.open = staticmethod(lambda *_, **__: StampedModel(size))  # type: ignore[assignment,method-assign]
    server = Server(FilmSettings(capacity=1))
    url = server.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info",
                      "--autoplay-policy=no-user-gesture-required"],
            )  # fmt: skip
            page = browser.new_page()
            page.goto(url)
            begun = time.monotonic()
            while page.evaluate("desk.shown") < RATE_HZ:
                page.wait_for_timeout(100)
                if time.monotonic() > begun + 60:
                    raise SystemExit("the page showed nothing for a minute")
            result = measure(page, released, seconds)
            browser.close()
    finally:
        server.stop()
        thread.join()
    return result


def main() -> None:
    """Measure both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="for each size")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    arguments = parser.parse_args()
    found = {name: run(SIZES[name], arguments.seconds) for name in arguments.sizes}
    load = Path("/proc/loadavg").read_text().split()[0]
    sys.stdout.write(json.dumps({"load": float(load), **found}) + "\n")


if __name__ == "__main__":
    main()
