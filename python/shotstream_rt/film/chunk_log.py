"""One JSON line per chunk: where its time went, for whoever looks for a stutter in a product.

Nothing waits for it. On a GPU stages are timed by events on their own streams, which are read when
the next chunk is on the host: by then the device has done everything that a line tells of. So a
line is written one chunk late, and the last one when the session is closed.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch

from ..checks import check_path
from ..outputs import output_error
from ..types import Chunk
from .stats import ShotTimes, resident_bytes

_log = logging.getLogger("shotstream_rt.film.chunk_log")

StageName = Literal["context_encode", "prompt", "chunk", "commit", "decode"]
STAGES: tuple[StageName, ...] = get_args(StageName)


class Timer(Protocol):
    """A moment in the work of a device; ``torch.cuda.Event`` with timing is one."""

    def record(self) -> None:
        """Mark all that the calling thread's stream was given so far."""
        ...

    def query(self) -> bool:
        """Tell, without waiting, whether what was marked is done."""
        ...

    def elapsed_time(self, end: Any) -> float:
        """Return the milliseconds to a later moment, both done."""
        ...


@dataclass(slots=True, eq=False)
class _Span:
    """Time of one stage."""

    host_ms: float
    begun: Timer | None = None
    ended: Timer | None = None

    @property
    def done(self) -> bool:
        return self.ended is None or self.ended.query()

    def device_ms(self) -> float | None:
        """Milliseconds of the device; None while it is still at it."""
        if self.begun is None or self.ended is None:
            return self.host_ms
        return self.begun.elapsed_time(self.ended) if self.done else None


@dataclass(slots=True, eq=False)
class _Line:
    """What is known of one chunk."""

    times: ShotTimes
    number: int
    chunk: dict[str, Any] | None = None
    spans: dict[str, _Span] = field(default_factory=dict)


class ChunkLog:
    """Writes a line per delivered chunk; every method may be called from any thread.

    Args:
        path: file to write; what was in it is lost.
        device: of the model.
        timer: makes a moment of the device; default: CUDA's on a GPU, none on a CPU, where the host
            is the device.

    Attributes:
        lock: guards the lines and the file.

    Raises:
        ConfigError: not a usable name.
        OutputError: the file cannot be opened.
    """

    def __init__(
        self,
        path: str | Path,
        device: torch.device,
        timer: Callable[[], Timer] | None = None,
    ) -> None:
        self._path = check_path("stats_path", path)
        self._device = device
        self._timer = timer
        if timer is None and device.type == "cuda":
            self._timer = partial(_CudaTimer, device)
        # A signal handler may close the session while this thread holds it.
        self.lock = threading.RLock()
        # In the order in which the chunks are made, which is also the order of their delivery.
        self._lines: dict[tuple[int, int], _Line] = {}
        self._last_s: float | None = None
        try:
            self._file: Any = open(  # noqa: SIM115 (held open)
                self._path, "w", encoding="utf-8", buffering=1, opener=_open_at_once
            )
        except OSError as error:
            raise output_error(self._path, error) from error

    @contextmanager
    def span(self, stage: StageName, times: ShotTimes, chunk: int) -> Iterator[None]:
        """Note how long a stage takes; nothing if it raises.

        Args:
            stage: its name.
            times: of the shot's run that the chunk belongs to.
            chunk: chunk number in the shot.
        """
        begun_ns, begun, ended = time.perf_counter_ns(), None, None
        if self._timer is not None:
            begun, ended = self._timer(), self._timer()
            begun.record()
        yield
        if ended is not None:
            ended.record()
        span = _Span((time.perf_counter_ns() - begun_ns) / 1e6, begun, ended)
        with self.lock:
            line = self._line(times, chunk)
            if line.chunk is not None and stage != "commit":
                # Only a clean pass comes after a chunk was made: this is the same chunk once more.
                del self._lines[id(times), chunk]
                self._write(line)
                line = self._line(times, chunk)
            line.spans[stage] = span

    def made(self, times: ShotTimes, chunk: Chunk) -> None:
        """Note that a chunk is ready for the reader, and write the lines of those before it."""
        interval_ms = None if self._last_s is None else 1e3 * (chunk.made_s - self._last_s)
        self._last_s = chunk.made_s
        on_gpu = self._device.type == "cuda"
        with self.lock:
            line = self._line(times, chunk.chunk)
            line.chunk = {
                "shot": chunk.shot,
                "take": chunk.take,
                "chunk": chunk.chunk,
                "index": chunk.index,
                "frames": len(chunk.pixels),
                "made_s": round(chunk.made_s, 6),
                "interval_ms": _rounded(interval_ms),
                "memory_bytes": resident_bytes(),
                "device_bytes": torch.cuda.memory_allocated(self._device) if on_gpu else None,
            }
            for key, older in list(self._lines.items()):
                if older is line or not all(span.done for span in older.spans.values()):
                    break
                del self._lines[key]
                self._write(older)

    def close(self) -> None:
        """Write what is left and close the file; may be called again."""
        with self.lock:
            for line in self._lines.values():
                self._write(line)
            self._lines.clear()
            file, self._file = self._file, None
            if file is not None:
                try:
                    file.close()
                except OSError as error:
                    self._give_up(error)

    # Under the lock.

    def _line(self, times: ShotTimes, chunk: int) -> _Line:
        # The line keeps ``times``, so that the number stays that of this run alone.
        return self._lines.setdefault((id(times), chunk), _Line(times, chunk))

    def _write(self, line: _Line) -> None:
        """Write a line, unless its chunk never reached the reader."""
        if line.chunk is None or self._file is None:
            return
        data = dict(line.chunk)
        for stage in STAGES:
            span = line.spans.get(stage)
            data[f"{stage}_ms"] = None if span is None else _rounded(span.device_ms())
            if self._timer is not None:
                data[f"{stage}_host_ms"] = None if span is None else _rounded(span.host_ms)
        try:
            self._file.write(json.dumps(data) + "\n")
        except OSError as error:
            self._file = None
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        _log.warning("%s; the film goes on", output_error(self._path, error))


class _CudaTimer:
    """The ``Timer`` of a CUDA device, on whichever stream the calling thread works there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event(enable_timing=True)

    def record(self) -> None:
        self._event.record(torch.cuda.current_stream(self._device))

    def query(self) -> bool:
        return bool(self._event.query())

    def elapsed_time(self, end: _CudaTimer) -> float:
        return float(self._event.elapsed_time(end._event))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file to write; neither here nor later is a pipe's reader waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
