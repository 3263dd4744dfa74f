"""What waits for one viewer: messages and fragments in their order, and never without bound."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple

from .from_server import Skipped
from .limits import Limits
from .message import Message
from .metrics import Metrics


class _Waiting(NamedTuple):
    """Something to be sent.

    Attributes:
        item: JSON text or binary.
        fragments: 1 for a frame, 0 for anything else.
        lost: frames that a ``Skipped`` message is about.
    """

    item: str | bytes
    fragments: int = 0
    lost: int = 0


class Viewer:
    """One who watches a film. Used on the event loop's thread.

    A viewer that reads too slowly loses frames: those that wait are dropped, and it goes on with
    the next key frame, after a message that says how many it did not see. One that takes nothing at
    all for some seconds is given up.

    Args:
        limits: of the server.
        metrics: are told what happens.
        video: whether it wants the picture.
    """

    def __init__(self, limits: Limits, metrics: Metrics, *, video: bool = True) -> None:
        self._limits, self._metrics, self._video = limits, metrics, video
        self._taken_s = time.monotonic()
        self._waits_since_s: float | None = self._taken_s  # for its first frame
        self._items: deque[_Waiting] = deque()
        self._fragments = self._bytes = self._skipped = 0
        self._needs_key = False
        self._ready = asyncio.Event()
        self._closed = False
        self.gone = asyncio.Event()
        """Set when it does not read what it is sent, not even messages: it is given up."""

    def tell(self, message: Message | str) -> None:
        """Send a message, or its text, which many viewers share."""
        text = message if isinstance(message, str) else message.model_dump_json()
        self._put(_Waiting(text))

    def wait_from(self, now_s: float) -> None:
        """Count the wait for the first frame from now on: before, there was nothing to see."""
        if self._waits_since_s is not None:
            self._waits_since_s = now_s

    def begin(self, head: bytes, fragments: list[bytes]) -> None:
        """Send the head of the file and what has come since the last key frame.

        Without a key frame so far, the picture begins with the next one.
        """
        if not self._video:
            return
        self._put(_Waiting(head))
        self._needs_key = not fragments
        for data in fragments:
            self._put(_Waiting(data, fragments=1))

    def show(self, data: bytes, *, key: bool) -> None:
        """Send a fragment, or skip it.

        Args:
            data: one frame.
            key: it is a key frame.
        """
        if not self._video or self._closed:
            return
        limits = self._limits
        if self._fragments >= limits.viewer_frames or self._bytes >= limits.viewer_bytes:
            self._skip()
        if self._needs_key and not key:
            self._skipped += 1
            self._metrics.dropped(1)
            return
        self._needs_key = False
        if self._skipped:
            told = Skipped(frames=self._skipped).model_dump_json()
            self._put(_Waiting(told, lost=self._skipped))
            self._skipped = 0
        self._put(_Waiting(data, fragments=1))

    def close(self) -> None:
        """Send what waits, then nothing more."""
        self._closed = True
        self._ready.set()

    async def next(self) -> str | bytes | None:
        """Return what comes next: JSON text or binary; None after the end."""
        while not self._items:
            if self._closed or self.gone.is_set():
                return None
            self._ready.clear()
            await self._ready.wait()
        waiting = self._items.popleft()
        self._bytes -= len(waiting.item)
        self._fragments -= waiting.fragments
        self._taken_s = time.monotonic()
        if self._waits_since_s is not None and waiting.fragments:
            self._metrics.first_frame(self._taken_s - self._waits_since_s)
            self._waits_since_s = None
        return waiting.item

    def has_gone(self, now_s: float) -> bool:
        """Tell whether the viewer is given up, and give it up if it takes nothing any more.

        Args:
            now_s: a monotonic clock in seconds.
        """
        if self._items and now_s > self._taken_s + self._limits.viewer_gone_s:
            self._give_up()
        return self.gone.is_set()

    def _put(self, waiting: _Waiting) -> None:
        if self._closed or self.gone.is_set():
            return
        if not self._items:
            self._taken_s = time.monotonic()
        self._items.append(waiting)
        self._bytes += len(waiting.item)
        self._fragments += waiting.fragments
        texts = len(self._items) - self._fragments
        if texts > self._limits.viewer_messages or self._bytes > 2 * self._limits.viewer_bytes:
            self._give_up()
        self._ready.set()

    def _give_up(self) -> None:
        if not self.gone.is_set():
            self._metrics.given_up()
        self.gone.set()
        self._items.clear()
        self._fragments = self._bytes = 0
        self._ready.set()

    def _skip(self) -> None:
        """Drop all fragments that wait, and keep the rest."""
        self._metrics.dropped(self._fragments)
        self._skipped += sum(waiting.fragments + waiting.lost for waiting in self._items)
        self._items = deque(w for w in self._items if not (w.fragments or w.lost))
        self._bytes, self._fragments = sum(len(w.item) for w in self._items), 0
        self._needs_key = True
