"""How far the loading of a model has come, told between tensors.

Whoever opens a model may pass a callable. It is called on the thread that loads. What it raises
ends the loading there: no further tensor is read, and what was loaded is freed with the error.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.printable import shown

from ..model.lazy_tensors import LazyTensor, LazyTensors

Tell = Callable[[str, int, int], object]
"""Called with a stage (``fetch``, ``student``, ``codec`` or ``text``), the bytes done of it and its
bytes in all."""


class LoadProgress:
    """Tells one caller about one loading.

    Args:
        tell: the caller's callable; ``None`` tells nobody.

    Raises:
        ConfigError: it cannot be called.
    """

    def __init__(self, tell: Tell | None = None) -> None:
        if tell is not None and not callable(tell):
            raise ConfigError(f"progress: got {shown(tell)}, wanted a callable or None")
        self.tell = tell

    def watch(self, stage: str, tensors: LazyTensors) -> LazyTensors:
        """Return the same tensors; each that is read is told.

        Args:
            stage: see ``Tell``.
            tensors: of one network; a tensor that is read twice counts once.
        """
        if self.tell is None:
            return tensors
        total = sum(_nbytes(entry) for entry in tensors.entries.values())
        self.tell(stage, 0, total)
        count = _Count(self.tell, stage, total)
        return LazyTensors({
            name: dataclasses.replace(entry, fill=partial(count.fill, name, entry))
            for name, entry in tensors.entries.items()
        })  # fmt: skip

    @contextmanager
    def file(self, stage: str, path: Path) -> Iterator[None]:
        """Tell about a small file that is read as a whole inside the ``with`` block.

        Args:
            stage: see ``Tell``.
            path: the file; one that is not there has no bytes.
        """
        total = path.stat().st_size if path.is_file() else 0
        if self.tell is not None:
            self.tell(stage, 0, total)
        yield
        if self.tell is not None:
            self.tell(stage, total, total)


class _Count:
    """Adds up the tensors of one stage."""

    def __init__(self, tell: Tell, stage: str, total: int) -> None:
        self._tell, self._stage, self._total = tell, stage, total
        self._read: set[str] = set()
        self._done = 0

    def fill(self, name: str, entry: LazyTensor, into: Tensor) -> None:
        entry.fill(into)
        if name not in self._read:
            self._read.add(name)
            self._done += _nbytes(entry)
        self._tell(self._stage, self._done, self._total)


class LoadingCancelled(Exception):  # noqa: N818 (not a failure: nobody waits any more)
    """Ends a loading that was given up; only who gave it up sees it."""


class Cancellation:
    """A ``Tell`` that can end the loading from another thread.

    Args:
        tell: the caller's own; not called any more once it is cancelled.

    Raises:
        ConfigError: it cannot be called.
    """

    def __init__(self, tell: Tell | None = None) -> None:
        self._tell, self._cancelled = LoadProgress(tell).tell, threading.Event()

    def cancel(self) -> None:
        """End the loading before its next tensor."""
        self._cancelled.set()

    def check(self) -> None:
        """Do nothing unless it is cancelled; for parts of the loading that read no tensors.

        Raises:
            LoadingCancelled: ``cancel`` was called.
        """
        if self._cancelled.is_set():
            raise LoadingCancelled

    def tell(self, stage: str, done: int, total: int) -> None:
        """Pass on how far it is; see ``Tell``.

        Args:
            stage: of the loading.
            done: bytes.
            total: bytes.

        Raises:
            LoadingCancelled: ``cancel`` was called.
        """
        self.check()
        if self._tell is not None:
            self._tell(stage, done, total)


def _nbytes(entry: LazyTensor) -> int:
    return math.prod(entry.shape) * entry.dtype.itemsize
