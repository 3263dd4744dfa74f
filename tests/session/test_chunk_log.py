"""``stats_path``: one line per chunk, written without waiting for a device."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shotstream_rt import Session
from shotstream_rt.errors import ConfigError, OutputError
from shotstream_rt.film.chunk_log import STAGES, ChunkLog
from shotstream_rt.film.stats import ShotTimes
from shotstream_rt.types import Chunk

CPU = torch.device("cpu")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def chunk(number: int, shot: int = 0, made_s: float = 0.0) -> Chunk:
    pixels = np.zeros((12, 2, 2, 3), np.uint8)
    return Chunk(pixels, 12 * number, shot, number, 0.0, made_s=made_s or float(number))


class FakeDevice:
    """A device whose clock and progress are set by hand; asking it to wait is an error."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.done_ms = 0.0

    def timer(self) -> FakeTimer:
        return FakeTimer(self)


class FakeTimer:
    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.at_ms = -1.0

    def record(self) -> None:
        self.at_ms = self._device.now_ms

    def query(self) -> bool:
        return self.at_ms <= self._device.done_ms

    def elapsed_time(self, end: FakeTimer) -> float:
        assert self.query() and end.query(), "read before the device was done"
        return end.at_ms - self.at_ms


def test_every_chunk_that_is_delivered_has_its_line(
    open_session: Callable[..., Session], tmp_path: Path
) -> None:
    path = tmp_path / "chunks.jsonl"
    session = open_session(stats_path=path)
    session.cut("one")
    session.cut("two")
    chunks = []
    for made in session.chunks():
        chunks.append(made)
        if made.shot == 0 and made.chunk == 1:
            session.prompt("changed")
    session.close()
    told = lines(path)
    wanted = [(c.shot, c.take, c.chunk, c.index, len(c.pixels)) for c in chunks]
    assert [tuple(line[key] for key in ("shot", "take", "chunk", "index", "frames"))
            for line in told] == wanted  # fmt: skip
    keys = {"made_s", "interval_ms", "memory_bytes", "device_bytes", *(f"{s}_ms" for s in STAGES)}
    for line, made in zip(told, chunks, strict=True):
        assert set(line) == {"shot", "take", "chunk", "index", "frames", *keys}
        assert line["made_s"] == pytest.approx(made.made_s, abs=1e-6)
        assert line["chunk_ms"] >= 0 and line["decode_ms"] >= 0
        assert (line["context_encode_ms"] is not None) == (made.chunk == 0)
        # A shot's last chunk is not committed.
        last = made.chunk == max(c.chunk for c in chunks if c.shot == made.shot)
        assert (line["commit_ms"] is None) == last
        assert line["device_bytes"] is None
    assert told[0]["interval_ms"] is None
    assert all(line["interval_ms"] >= 0 for line in told[1:])
    assert sum(line["prompt_ms"] is not None for line in told) == 1


def test_a_line_comes_with_the_next_chunk(
    open_session: Callable[..., Session], tmp_path: Path
) -> None:
    path = tmp_path / "chunks.jsonl"
    session = open_session(stats_path=str(path), queue_chunks=1)
    session.cut("one")
    chunks = list(session.chunks())
    assert len(lines(path)) == len(chunks) - 1
    session.close()
    assert len(lines(path)) == len(chunks)


def test_what_was_not_delivered_has_no_line(tmp_path: Path) -> None:
    path = tmp_path / "chunks.jsonl"
    log, times = ChunkLog(path, CPU), ShotTimes(shot=0, take=0, prompt="")
    for number in range(3):
        with log.span("chunk", times, number):
            pass
        if number != 1:
            log.made(times, chunk(number))
    log.close()
    log.close()
    assert [line["chunk"] for line in lines(path)] == [0, 2]


def test_a_stage_that_fails_is_not_noted(tmp_path: Path) -> None:
    path = tmp_path / "chunks.jsonl"
    log, times = ChunkLog(path, CPU), ShotTimes(shot=0, take=0, prompt="")
    with pytest.raises(RuntimeError), log.span("commit", times, 0):
        raise RuntimeError
    log.made(times, chunk(0))
    log.close()
    assert lines(path)[0]["commit_ms"] is None


def test_a_device_is_never_waited_for(tmp_path: Path) -> None:
    path, device = tmp_path / "chunks.jsonl", FakeDevice()
    log, times = ChunkLog(path, CPU, device.timer), ShotTimes(shot=0, take=0, prompt="")
    for number in range(2):
        with log.span("chunk", times, number):
            device.now_ms += 40
    device.done_ms = 40
    log.made(times, chunk(0))
    assert lines(path) == []  # its clean pass may still come
    with log.span("commit", times, 0):
        device.now_ms += 10
    log.made(times, chunk(1))
    assert lines(path) == []  # the device is at the clean pass
    device.done_ms = device.now_ms
    log.made(times, chunk(2))
    first, second = lines(path)
    assert (first["chunk_ms"], first["commit_ms"]) == (40, 10)
    assert (second["chunk_ms"], second["commit_ms"]) == (40, None)
    assert first["chunk_host_ms"] < 40  # the host only queued the work
    with log.span("commit", times, 2):
        device.now_ms += 10
    log.close()
    assert lines(path)[2]["commit_ms"] is None  # not done when the film ended
    assert lines(path)[2]["commit_host_ms"] is not None


def test_chunks_of_two_runs_of_a_shot_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "chunks.jsonl"
    log = ChunkLog(path, CPU)
    runs = [ShotTimes(shot=0, take=0, prompt="") for _ in range(2)]
    for times in runs:
        with log.span("chunk", times, 0):
            pass
    log.made(runs[1], chunk(0))
    log.close()
    assert len(lines(path)) == 1


def test_a_chunk_that_is_made_once_more_has_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "chunks.jsonl"
    log, times = ChunkLog(path, CPU), ShotTimes(shot=0, take=0, prompt="")
    for number, made_s in ((0, 1.0), (1, 2.0), (1, 3.0), (0, 4.0), (1, 5.0)):
        with log.span("chunk", times, number):
            pass
        log.made(times, chunk(number, made_s=made_s))
        with log.span("commit", times, number):
            pass
    log.close()
    told = lines(path)
    assert [(line["chunk"], line["made_s"]) for line in told] == [
        (0, 1.0), (1, 2.0), (1, 3.0), (0, 4.0), (1, 5.0)
    ]  # fmt: skip
    assert all(line["chunk_ms"] is not None and line["commit_ms"] is not None for line in told)


@pytest.mark.parametrize("path", ["", 7, b"x"])
def test_a_name_that_is_none_is_refused(path: object, open_session: Callable[..., Session]) -> None:
    with pytest.raises((ConfigError, OutputError), match=r"wanted the name of a file"):
        open_session(stats_path=path)


def test_a_file_that_cannot_be_written_is_refused(
    open_session: Callable[..., Session], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        open_session(stats_path=tmp_path / "no" / "such" / "folder.jsonl")


@pytest.mark.timeout(30)
def test_a_pipe_is_not_waited_for(open_session: Callable[..., Session], tmp_path: Path) -> None:
    pipe = tmp_path / "figures"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="whoever reads it"):
        open_session(stats_path=pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        session = open_session(stats_path=pipe)
        session.cut("one")
        frames = list(session.stream())
        session.close()
        assert len(frames) == session.shot_frames
        assert json.loads(os.read(reader, 1 << 16).split(b"\n")[0])["chunk"] == 0
    finally:
        os.close(reader)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_does_not_end_the_film(
    open_session: Callable[..., Session], caplog: pytest.LogCaptureFixture
) -> None:
    session = open_session(stats_path="/dev/full")
    session.cut("one")
    with caplog.at_level(logging.WARNING):
        frames = list(session.stream())
        session.close()
    assert len(frames) == session.shot_frames
    warnings = [record.getMessage() for record in caplog.records if "/dev/full" in record.message]
    assert len(warnings) == 1
    assert "the film goes on" in warnings[0]
