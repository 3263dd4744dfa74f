"""Which shot comes when: the queue of asked-for shots and the one that runs.

Pure decisions on plain values, no threads, tensors or clocks: the generator asks it at every chunk
boundary, under its own lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from .config import StreamConfig
from .errors import ConfigError
from .shots import AtEnd, ShotRequest, ShotRun

_ROTARY_POSITIONS = 1024
"""Temporal positions the student can tell apart. Source: ShotStream's rotary table."""


def longest_shot_chunks(config: StreamConfig) -> int | None:
    """Return how many chunks a shot can have, None for any number.

    Keys rotated when written carry their position in the shot, and positions end; keys rotated
    when read are numbered anew in every pass.
    """
    if config.cache.key_rotation == "on_read":
        return None
    return (_ROTARY_POSITIONS - config.cache.context_frames) // config.shot.chunk_frames


class Playlist:
    """The order of shots.

    Args:
        trained_chunks: chunks of a shot of trained length.
        at_end: what such a shot does when nothing is queued: ``hold`` ends it, ``extend`` goes on
            making chunks of it, ``loop`` begins a new shot with the same caption.
        longest_chunks: chunks of the longest shot there can be; an extended one that gets there
            goes on as a new shot with the same caption. None: no limit.
    """

    def __init__(
        self, *, trained_chunks: int, at_end: AtEnd, longest_chunks: int | None = None
    ) -> None:
        self._trained_chunks = trained_chunks
        self._longest_chunks = longest_chunks
        self._at_end = at_end
        self._pending: deque[ShotRequest] = deque()
        self._run: ShotRun | None = None
        self._next_shot = 0

    @property
    def run(self) -> ShotRun | None:
        """The last shot begun."""
        return self._run

    @property
    def pending(self) -> tuple[ShotRequest, ...]:
        """Shots asked for and not begun."""
        return tuple(self._pending)

    @property
    def next_shot(self) -> int:
        """The number of the next shot that does not replace another."""
        return self._next_shot

    @property
    def upcoming_shot(self) -> int:
        """The number that the next queued shot will get."""
        return self._next_shot + sum(not request.retake for request in self._pending)

    def add(self, request: ShotRequest) -> None:
        """Queue a shot; one marked ``now`` goes before all others."""
        if request.now:
            self._pending.appendleft(request)
        else:
            self._pending.append(request)

    def clear(self, requests: Iterable[ShotRequest] = (), *, next_shot: int) -> None:
        """Forget everything and queue ``requests``, the first of which is ``next_shot``."""
        self._run = None
        self._pending = deque(requests)
        self._next_shot = next_shot

    def reword_next(self, text: str) -> ShotRequest:
        """Change the text of the next queued shot.

        Raises:
            ConfigError: nothing is queued.
        """
        if not self._pending:
            raise ConfigError("prompt: no shot is running or queued; begin one with cut(text)")
        self._pending[0] = replace(self._pending[0], text=text)
        return self._pending[0]

    def retake_request(self, shot: int | None, *, requested_ns: int) -> ShotRequest:
        """Return the request that replaces the last shot begun by another take of it.

        Raises:
            ConfigError: no shot was begun, or ``shot`` is not the last one begun.
        """
        run = self._run
        if run is None or (shot is not None and shot != run.shot):
            last = "none was begun" if run is None else f"the last one begun is shot {run.shot}"
            raise ConfigError(f"retake: got {'no shot' if shot is None else shot}, but {last}")
        take = max([run.request.take, *(r.take for r in self._pending if r.retake)]) + 1
        return run.again(requested_ns=requested_ns, take=take)

    def can_go_on(self, run: ShotRun) -> bool:
        """Tell whether a shot may have another chunk, if nothing cuts it short."""
        limit = run.request.chunk_limit
        if limit is not None:
            return run.next_chunk < limit
        if run.over:
            return False
        if run.next_chunk < self._trained_chunks:
            return True
        within = self._longest_chunks is None or run.next_chunk < self._longest_chunks
        return self._at_end == "extend" and within

    def running(self) -> ShotRun | None:
        """Return the shot that may still have chunks to come."""
        run = self._run
        return run if run is not None and self.can_go_on(run) else None

    def has_work(self) -> bool:
        """Tell whether there is a chunk to make."""
        if self._pending or self.running() is not None:
            return True
        return self._run is not None and self._at_end != "hold"

    def will_go_on(self, ready: Callable[[ShotRequest], bool]) -> bool:
        """Tell whether the running shot has another chunk, given what is queued.

        Args:
            ready: whether a request's caption is encoded. Whoever cuts in does not stop the
                picture while its caption is still at work.
        """
        run = self.running()
        if run is None:
            return False
        if not self._pending:
            return True
        complete = run.request.chunk_limit is None and run.next_chunk >= self._trained_chunks
        return not complete and not (self._pending[0].now and ready(self._pending[0]))

    def next_request(
        self, ready: Callable[[ShotRequest], bool], *, now_ns: int
    ) -> ShotRequest | None:
        """Take the shot to begin at this boundary; None means the running one goes on."""
        if self.will_go_on(ready):
            return None
        if self._pending:
            return self._pending.popleft()
        assert self._run is not None, "next_request without work"
        return self._run.again(requested_ns=now_ns)

    def begin(self, request: ShotRequest) -> ShotRun:
        """Make ``request`` the running shot and number it."""
        replaces = request.retake and self._run is not None
        if self._run is not None:
            self._run.over = True
        if not replaces:
            self._next_shot += 1
        self._run = ShotRun(request=request, shot=self._next_shot - 1, replaces=replaces)
        return self._run
