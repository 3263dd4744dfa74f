"""Collects durations by metric name, from any thread."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Samples by name.

    Args:
        device: on a GPU every reading of the clock waits for the work queued before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._samples: dict[str, list[float]] = {}

    @property
    def timer(self) -> str:
        """How time is read, for the record."""
        return "perf_counter_ns" + ("+synchronize" if self._device.type == "cuda" else "")

    def now_ns(self) -> int:
        """Return host time after the device has finished."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter_ns()

    def add(self, name: str, value: float) -> None:
        """Append a sample."""
        with self._lock:
            self._samples.setdefault(name, []).append(value)

    @contextmanager
    def time_ms(self, *names: str) -> Iterator[None]:
        """Append the milliseconds of the enclosed work under every name."""
        begun = self.now_ns()
        yield
        elapsed = (self.now_ns() - begun) / 1e6
        for name in names:
            self.add(name, elapsed)

    def clear(self) -> None:
        """Forget everything, as after a warm-up."""
        with self._lock:
            self._samples.clear()

    def samples(self) -> dict[str, list[float]]:
        """Return a copy."""
        with self._lock:
            return {name: list(values) for name, values in self._samples.items()}


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory held so far: by torch on a GPU, by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
