"""Collects durations by metric name, from any thread, without disturbing what it measures.

On a GPU a stage is timed by a pair of events on the stream it is queued on, read at the end:
nothing waits for the device, so work that overlaps still does.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

Reading = Callable[[], float]
"""Gives milliseconds, once the device has finished."""


class Stopwatch:
    """Samples by name.

    Args:
        device: where the timed work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._samples: dict[str, list[float | Reading]] = {}
        self._parts: dict[str, list[Reading]] = {}

    @property
    def timer(self) -> str:
        """How time is read, for the record."""
        return "cuda events, perf_counter_ns" if self._on_gpu else "perf_counter_ns"

    def now_ns(self) -> int:
        """Return host time after the device has finished everything."""
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
        return time.perf_counter_ns()

    def add(self, name: str, value: float | Reading) -> None:
        """Append a sample, or what will give it."""
        with self._lock:
            self._samples.setdefault(name, []).append(value)

    @contextmanager
    def span(self) -> Iterator[list[Reading]]:
        """Time the enclosed work of the device; the list holds its reading afterwards."""
        out: list[Reading] = []
        if self._on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield out
            end.record()
            out.append(lambda: _elapsed_ms(start, end))
        else:
            begun = time.perf_counter_ns()
            yield out
            elapsed_ms = (time.perf_counter_ns() - begun) / 1e6
            out.append(lambda: elapsed_ms)

    @contextmanager
    def time_ms(self, *names: str) -> Iterator[None]:
        """Append the milliseconds of the device's enclosed work under every name."""
        with self.span() as reading:
            yield
        for name in names:
            spans = [*self._parts.pop(name, []), *reading]
            self.add(name, partial(_sum, spans))

    @contextmanager
    def part_ms(self, name: str) -> Iterator[None]:
        """Time the enclosed work of the device as a part of the name's next sample."""
        with self.span() as reading:
            yield
        self._parts.setdefault(name, []).extend(reading)

    @contextmanager
    def host_ms(self, name: str) -> Iterator[None]:
        """Append the milliseconds that the calling thread takes for the enclosed."""
        begun = time.perf_counter_ns()
        yield
        self.add(name, (time.perf_counter_ns() - begun) / 1e6)

    def clear(self) -> None:
        """Forget everything, as after a warm-up."""
        with self._lock:
            self._samples.clear()
            self._parts.clear()

    def samples(self) -> dict[str, list[float]]:
        """Return all samples as numbers; waits for the device."""
        self.now_ns()
        with self._lock:
            return {
                name: [value if isinstance(value, float | int) else value() for value in values]
                for name, values in self._samples.items()
            }

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"


def _elapsed_ms(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    return float(start.elapsed_time(end))


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory held so far: by torch on a GPU, by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _sum(spans: list[Reading]) -> float:
    return sum(span() for span in spans)
