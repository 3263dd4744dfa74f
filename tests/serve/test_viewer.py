"""What waits for a viewer is bounded, and who is slow goes on at a key frame."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from shotstream_rt.serve.from_server import Failed
from shotstream_rt.serve.limits import Allowance, Limits
from shotstream_rt.serve.metrics import Metrics
from shotstream_rt.serve.viewer import Viewer

LIMITS = Limits(viewer_frames=10, viewer_bytes=10_000, viewer_messages=20)
NOTE = Failed(kind="E", message="x")


def received(viewer: Viewer) -> list[Any]:
    """Close the viewer and return everything that it is sent."""

    async def read() -> list[Any]:
        viewer.close()
        items = []
        while (item := await viewer.next()) is not None:
            items.append(json.loads(item)["type"] if isinstance(item, str) else item)
        return items

    return asyncio.run(read())


def test_a_viewer_gets_head_past_and_what_follows_in_order() -> None:
    viewer = Viewer(LIMITS, Metrics())
    viewer.tell(NOTE)
    viewer.begin(b"head", [b"k0", b"d1"])
    viewer.show(b"d2", key=False)
    viewer.tell(NOTE)
    assert received(viewer) == ["failed", b"head", b"k0", b"d1", b"d2", "failed"]


def test_a_slow_viewer_goes_on_with_the_next_key_frame() -> None:
    viewer = Viewer(LIMITS, Metrics())
    viewer.begin(b"head", [])
    for number in range(25):
        viewer.show(b"%d" % number, key=number in (0, 20))
    viewer.tell(NOTE)
    assert received(viewer) == [b"head", "skipped", b"20", b"21", b"22", b"23", b"24", "failed"]


def test_before_the_first_key_frame_nothing_is_shown() -> None:
    viewer = Viewer(LIMITS, Metrics())
    viewer.begin(b"head", [])
    viewer.show(b"d", key=False)
    viewer.show(b"k", key=True)
    assert received(viewer) == [b"head", "skipped", b"k"]


def test_large_frames_are_bounded_by_their_bytes() -> None:
    viewer = Viewer(LIMITS, Metrics())
    viewer.begin(b"head", [])
    for _ in range(100):
        viewer.show(b"x" * 4000, key=True)
    waiting = [item for item in received(viewer) if isinstance(item, bytes)]
    assert sum(len(item) for item in waiting) <= 2 * LIMITS.viewer_bytes
    assert not viewer.gone.is_set()


def test_who_reads_nothing_at_all_is_given_up() -> None:
    viewer = Viewer(LIMITS, Metrics())
    for _ in range(LIMITS.viewer_messages + 1):
        viewer.tell(NOTE)
    assert viewer.gone.is_set()
    assert received(viewer) == []


def test_who_takes_nothing_for_some_seconds_is_given_up() -> None:
    viewer = Viewer(LIMITS, Metrics())
    now_s = time.monotonic()
    assert not viewer.has_gone(now_s + 1000)  # there was nothing to take
    viewer.tell(NOTE)
    assert not viewer.has_gone(now_s + LIMITS.viewer_gone_s - 1)
    assert viewer.has_gone(time.monotonic() + LIMITS.viewer_gone_s + 1)
    assert viewer.gone.is_set()
    viewer.tell(NOTE)
    assert received(viewer) == []


def test_who_takes_something_now_and_then_is_not() -> None:
    viewer = Viewer(LIMITS, Metrics())

    async def read() -> None:
        for _ in range(3):
            viewer.tell(NOTE)
            viewer.tell(NOTE)
            await viewer.next()
            assert not viewer.has_gone(time.monotonic() + LIMITS.viewer_gone_s - 1)

    asyncio.run(read())


def test_drops_and_the_wait_for_the_first_frame_are_counted() -> None:
    metrics = Metrics()
    viewer = Viewer(LIMITS, metrics)
    viewer.begin(b"head", [])
    for number in range(25):
        viewer.show(b"%d" % number, key=number in (0, 20))
    viewer.wait_from(time.monotonic())
    received(viewer)
    viewer.has_gone(time.monotonic())
    told = metrics.registry.get_sample_value
    assert told("shotstream_dropped_frames_total") == 20
    assert told("shotstream_time_to_first_frame_seconds_count") == 1
    assert told("shotstream_viewers_given_up_total") == 0


def test_who_wants_no_picture_gets_none() -> None:
    viewer = Viewer(LIMITS, Metrics(), video=False)
    viewer.begin(b"head", [b"k"])
    viewer.show(b"k", key=True)
    viewer.tell(NOTE)
    assert received(viewer) == ["failed"]


def test_an_allowance_refills_at_its_rate() -> None:
    allowance = Allowance(10)
    assert sum(allowance.take(100.0) for _ in range(100)) == 30
    assert sum(allowance.take(100.5) for _ in range(100)) == 5
    assert sum(allowance.take(1000.0) for _ in range(100)) == 30
