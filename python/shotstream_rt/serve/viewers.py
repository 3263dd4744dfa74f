"""The viewers of one film, and the fragments that they have been shown last."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from .fragments import Head, Sample, fragment
from .message import Message
from .metrics import Metrics
from .viewer import Viewer


class _Shown(NamedTuple):
    """A fragment that was sent: its number in the live stream, and whether it is a key frame."""

    number: int
    key: bool
    data: bytes


class Viewers:
    """Who watches a film: everybody is shown and told the same. Used on the event loop's thread.

    Fragments are kept from the last key frame but one on, for those who come back.

    Args:
        head: the beginning of the film's stream.
        metrics: are told what happens.
        frames: how many frames the live stream has shown, in a process before this one.
        last: the last of them, from a key frame on: number in the live stream, and sample, of each.

    Attributes:
        frames: how many frames the live stream has shown.
    """

    def __init__(
        self,
        head: Head,
        metrics: Metrics,
        *,
        frames: int = 0,
        last: Iterable[tuple[int, Sample]] = (),
    ) -> None:
        self._head, self._metrics, self.frames = head, metrics, frames
        self._viewers: set[Viewer] = set()
        self._shown: deque[_Shown] = deque()
        self._alone_since_s = time.monotonic()
        self._closed = False
        for number, sample in last:
            self._shown.append(self._wrapped(number, sample))

    def __len__(self) -> int:
        return len(self._viewers)

    @property
    def unwatched_s(self) -> float:
        """Seconds for which nobody has watched."""
        return 0.0 if self._viewers else time.monotonic() - self._alone_since_s

    def expect(self) -> None:
        """Count the seconds without a viewer from now on: the film wakes, for somebody comes."""
        self._alone_since_s = time.monotonic()

    def join(self, viewer: Viewer, after: int | None = None) -> None:
        """Show the picture to a viewer, from a key frame on; after ``close``, what there is of it.

        Args:
            viewer: who watches.
            after: number of the last frame that it has; see ``LiveFilm.join``.
        """
        viewer.begin(self._head.data, self._shown_from(after))
        self._viewers.add(viewer)
        self._metrics.joined()
        if self._closed:
            viewer.close()

    def leave(self, viewer: Viewer) -> None:
        """Stop showing to a viewer."""
        self._viewers.discard(viewer)
        self._alone_since_s = time.monotonic()

    def remove_gone(self) -> None:
        """Stop showing to those who do not read what they are sent."""
        now_s = time.monotonic()
        for viewer in tuple(self._viewers):
            if viewer.has_gone(now_s):
                self.leave(viewer)

    def wait_from(self, now_s: float) -> None:
        """Count everybody's wait for the first frame from now on: the film begins.

        Args:
            now_s: when it was asked to, on the monotonic clock, in seconds.
        """
        for viewer in self._viewers:
            viewer.wait_from(now_s)

    def tell(self, message: Message) -> None:
        """Tell everybody."""
        text = message.model_dump_json()
        for viewer in self._viewers:
            viewer.tell(text)

    def show(self, number: int, sample: Sample) -> None:
        """Show a frame to everybody.

        Args:
            number: of the frame in the live stream, one more than that of the frame before.
            sample: the frame, encoded.
        """
        self.frames = number + 1
        shown = self._wrapped(number, sample)
        if shown.key:
            self._forget_shown()
        self._shown.append(shown)
        for viewer in self._viewers:
            viewer.show(shown.data, key=shown.key)

    def close(self) -> None:
        """Send everybody what waits, then nothing more."""
        self._closed = True
        for viewer in self._viewers:
            viewer.close()

    def _wrapped(self, number: int, sample: Sample) -> _Shown:
        return _Shown(number, sample.key, fragment(self._head, number, number, sample))

    def _forget_shown(self) -> None:
        """Keep what was sent since the last key frame, for who comes back; a new one comes now."""
        keys = [shown.number for shown in self._shown if shown.key]
        while self._shown and self._shown[0].number < (keys[-1] if keys else 0):
            self._shown.popleft()

    def _shown_from(self, after: int | None) -> list[bytes]:
        keys = [shown.number for shown in self._shown if shown.key]
        wanted = [key for key in keys if after is not None and key <= after + 1]
        first = max(wanted or keys[-1:], default=0)
        return [shown.data for shown in self._shown if shown.number >= first]
