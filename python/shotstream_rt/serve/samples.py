"""Where a recording's coded frames lie: in a temporary file, or in a store."""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Protocol

from .store import Store

NAME = "recording"
"""Of the value of a store that they are appended to."""

_MOST_WAITING_BYTES = 64 * 2**20
"""What may wait for a store that is slow or fails, before no more is taken."""


class Samples(Protocol):
    """Bytes that are only ever appended to. One thread appends, any may read."""

    @property
    def length(self) -> int:
        """Bytes so far."""
        ...

    def append(self, data: bytes) -> int | None:
        """Add bytes and return their place; None if there is no room for them."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at a place."""
        ...


class TemporarySamples:
    """A file that ends with the process; branches of a film share it.

    Args:
        limit_bytes: largest size.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="shotstream-film-")  # noqa: SIM115
        self._limit, self.length = limit_bytes, 0
        self._lock = threading.Lock()

    def append(self, data: bytes) -> int | None:
        """Write bytes and return their place; None if there is no room for them."""
        with self._lock:
            if self.length + len(data) > self._limit:
                return None
            offset, self.length = self.length, self.length + len(data)
        written = 0
        try:
            while written < len(data):  # a disk that gets full takes a part of it first
                written += os.pwrite(self._file.fileno(), data[written:], offset + written)
        except OSError:
            return None
        return offset

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at a place."""
        return os.pread(self._file.fileno(), size, offset)


class StoredSamples:
    """A value of a store. What was appended last is in memory until ``flush``.

    Args:
        store: keeps them.
        film: whose they are; this process has its lease.
        limit_bytes: largest size.
        length: bytes of the value that count; what it has behind them is written over.
    """

    def __init__(self, store: Store, film: str, limit_bytes: int, length: int = 0) -> None:
        self._store, self._film, self._limit = store, film, limit_bytes
        self._safe, self._waiting = length, bytearray()
        self._lock = threading.Lock()

    @property
    def length(self) -> int:
        """Bytes so far."""
        with self._lock:
            return self._safe + len(self._waiting)

    @property
    def waiting(self) -> int:
        """Bytes that are not in the store yet."""
        with self._lock:
            return len(self._waiting)

    def append(self, data: bytes) -> int | None:
        """Add bytes and return their place; None if there is no room for them."""
        with self._lock:
            offset, waiting = self._safe + len(self._waiting), len(self._waiting) + len(data)
            if self._safe + waiting > self._limit or waiting > _MOST_WAITING_BYTES:
                return None
            self._waiting += data
            return offset

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at a place."""
        with self._lock:
            if (at := offset - self._safe) >= 0:
                return bytes(self._waiting[at : at + size])
        return self._store.read(self._film, NAME, offset, size)

    def flush(self) -> int:
        """Put what waits into the store and return how many bytes it was. On one thread at a time.

        Raises:
            StoreError: it cannot be; it waits on.
        """
        with self._lock:
            data, at = bytes(self._waiting), self._safe
        if data:
            self._store.append(self._film, NAME, data, at=at)
            with self._lock:
                self._safe += len(data)
                del self._waiting[: len(data)]
        return len(data)
