"""The stopwatch on a host, and on a device whose events are made up."""

from __future__ import annotations

import time

import pytest
import torch

from shotstream_rt.bench.stopwatch import Stopwatch


class FakeEvents:
    """A device that runs 5 ms behind the host, and notes who waits for it."""

    def __init__(self) -> None:
        self.waits = self.recorded = 0

    def event(self, *, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        return FakeEvent(self)

    def synchronize(self, _: torch.device) -> None:
        self.waits += 1


class FakeEvent:
    def __init__(self, device: FakeEvents) -> None:
        self._device, self.at_ms = device, -1.0

    def record(self) -> None:
        self._device.recorded += 1
        self.at_ms = 10.0 * self._device.recorded

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self._device.waits, "read before the device had finished"
        return end.at_ms - self.at_ms


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeEvents:
    fake = FakeEvents()
    monkeypatch.setattr("torch.cuda.Event", fake.event)
    monkeypatch.setattr("torch.cuda.synchronize", fake.synchronize)
    return fake


def test_a_device_is_timed_by_its_events_and_never_waited_for(device: FakeEvents) -> None:
    watch = Stopwatch(torch.device("cuda"))
    with watch.time_ms("outer_ms"), watch.time_ms("inner_ms", "inner_ms.1"):
        pass
    assert device.waits == 0
    assert watch.samples() == {"inner_ms": [10.0], "inner_ms.1": [10.0], "outer_ms": [30.0]}
    assert "events" in watch.timer


def test_sums_are_made_when_the_device_has_finished(device: FakeEvents) -> None:
    watch = Stopwatch(torch.device("cuda"))
    spans = []
    for _ in range(3):
        with watch.span() as reading:
            pass
        spans += reading
    watch.add("shot_s", lambda: sum(span() for span in spans) / 1e3)
    assert device.waits == 0
    assert watch.samples() == {"shot_s": [0.03]}


def test_a_host_is_timed_at_once() -> None:
    watch = Stopwatch(torch.device("cpu"))
    with watch.time_ms("work_ms"):
        time.sleep(0.002)
    with watch.host_ms("wait_ms"):
        pass
    samples = watch.samples()
    assert samples["work_ms"][0] >= 2
    assert samples["wait_ms"][0] >= 0
    watch.clear()
    assert watch.samples() == {}
