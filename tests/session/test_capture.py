"""``SHOTSTREAM_CAPTURE``: a profiler sees some shots of whatever program runs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from shotstream_rt import Session, env
from shotstream_rt.device import profiler
from shotstream_rt.errors import ConfigError
from shotstream_rt.film import capture
from shotstream_rt.film.capture import Capture
from shotstream_rt.types import Event, Place

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(autouse=True)
def nobody_has_the_profiler() -> Iterator[None]:
    capture._only_one.cache_clear()
    yield
    capture._only_one.cache_clear()


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the profiler was told."""
    told: list[str] = []

    @contextmanager
    def profiled(device: torch.device, trace: Path | None) -> Iterator[None]:
        told.append(f"open on {device}")
        yield
        told.append("close")

    monkeypatch.setattr(capture, "profiled", profiled)
    return told


def test_a_gpu_is_idle_when_its_profiler_starts_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Runtime:
        def cudaProfilerStart(self) -> None:  # noqa: N802 (CUDA's name)
            told.append("start")

        def cudaProfilerStop(self) -> None:  # noqa: N802
            told.append("stop")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: told.append(f"wait {device}"))
    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    with profiler.profiled(CUDA, None):
        told.append("work")
    assert told == ["wait cuda:0", "start", "work", "wait cuda:0", "stop"]
    told.clear()
    with profiler.profiled(CPU, None):
        pass
    assert told == []


def began(shot: int, take: int = 0) -> Event:
    return Event(kind="shot_began", place=Place(shot, take, 0, 0))


@pytest.mark.parametrize(
    "value,wanted",
    [
        ("shot:3-5", (3, 5, None)),
        ("shot:0", (0, 0, None)),
        (" shot:2:out/t.json ", (2, 2, Path("out/t.json"))),
        ("shot:2-4:t.json", (2, 4, Path("t.json"))),
        ("", None),
    ],
)
def test_the_variable_names_shots_and_a_file(
    value: str, wanted: tuple[int, int, Path | None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(env.CAPTURE, value)
    assert env.capture() == wanted


@pytest.mark.parametrize("value", ["3-5", "shot:", "shot:5-3", "shot:a", "chunk:1", "shot:1-2:"])
def test_another_value_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch, open_session: Callable[..., Session]
) -> None:
    monkeypatch.setenv(env.CAPTURE, value)
    with pytest.raises(ConfigError, match=r"SHOTSTREAM_CAPTURE: got .*wanted shot:N"):
        open_session()


def test_the_range_goes_from_the_first_shot_to_behind_the_last(ranges: list[str]) -> None:
    wanted = Capture(env.CaptureRange(1, 2, None), CUDA)
    seen = []
    for event in (began(0), began(1), Event(kind="chunk_made"), began(1, take=1), began(2)):
        wanted.hear(event)
        seen.append(list(ranges))
    assert seen == [[], *[["open on cuda:0"]] * 4]
    wanted.hear(began(3))
    assert ranges == ["open on cuda:0", "close"]
    for event in (began(1), began(2), began(3)):  # another film of the process does not reopen it
        wanted.hear(event)
    wanted.close()
    assert ranges == ["open on cuda:0", "close"]


def test_one_session_of_a_process_has_the_profiler(ranges: list[str]) -> None:
    one, other = (Capture(env.CaptureRange(0, 0, None), CUDA) for _ in range(2))
    one.hear(began(0))
    other.hear(began(0))
    other.close()
    assert ranges == ["open on cuda:0"]
    one.close()
    assert ranges == ["open on cuda:0", "close"]


def test_closing_the_session_closes_the_range(
    ranges: list[str], monkeypatch: pytest.MonkeyPatch, open_session: Callable[..., Session],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv(env.CAPTURE, f"shot:1-7:{tmp_path / 't.json'}")
    session = open_session()
    session.cut("one")
    list(session.stream())
    assert ranges == []
    session.cut("two")
    list(session.stream())
    assert ranges == ["open on cpu"]
    session.close()
    assert ranges == ["open on cpu", "close"]


def test_a_cpu_wants_a_file(
    monkeypatch: pytest.MonkeyPatch, open_session: Callable[..., Session]
) -> None:
    monkeypatch.setenv(env.CAPTURE, "shot:3-5")
    with pytest.raises(ConfigError, match=r"device cpu has no CUDA profiler.*shot:3-5:FILE\.json"):
        open_session()


def test_the_timeline_of_a_running_session_holds_the_work_of_its_threads(
    monkeypatch: pytest.MonkeyPatch, open_session: Callable[..., Session], tmp_path: Path
) -> None:
    trace = tmp_path / "folder" / "trace.json"
    monkeypatch.setenv(env.CAPTURE, f"shot:1:{trace}")
    session = open_session()
    for text in ("one", "two", "three"):
        session.cut(text)
    list(session.stream())
    found = json.loads(trace.read_text("utf-8"))  # closed by the third shot
    work = [event for event in found["traceEvents"] if event.get("cat") == "cpu_op"]
    assert len({event["tid"] for event in work}) >= 2
