"""Iterating over what comes out of the frame queue: on threads, and in event loops.

An iterator waits without a lock and without a thread of its own. It ends when nothing more will
come, unless it is to follow the film.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from functools import cache, partial
from typing import Generic, TypeVar

from ..checks import check_flag, check_timeout
from ..errors import FrameTimeoutError
from ..nvtx import annotate, level, mark
from ..types import Chunk, Frame
from .frame_queue import Offer
from .timeline import Timeline

_LOOK_S = 0.5
"""Longest a waiting thread sleeps without looking: where locks cannot be interrupted (Windows),
Ctrl-C is noticed then."""

Item = TypeVar("Item", Frame, Chunk)


class _Reading(Generic[Item]):
    """What iterators for threads and for event loops have in common.

    Args:
        timeline: of the film that is read.
        owner: kept alive as long as somebody reads.
        follow: wait although nothing is queued.
        timeout_s: longest wait for an item in seconds; None waits without limit.
        whole: whether to take whole chunks.

    Raises:
        ConfigError: ``follow`` or ``timeout_s`` is not usable.
    """

    def __init__(
        self, timeline: Timeline, owner: object, follow: bool, timeout_s: float | None, whole: bool
    ) -> None:
        self._timeline, self._frames, self._owner = timeline, timeline.frames, owner
        self._whole, self._follow, self._timeout_s = whole, follow, timeout_s
        self._marked = level() > 0
        if follow is not False:
            check_flag("follow", follow)
        if timeout_s is not None:
            self._timeout_s = check_timeout(timeout_s)

    def _time_left(self, begun_s: float) -> float:
        """Return the seconds left to wait.

        Raises:
            FrameTimeoutError: none.
        """
        assert self._timeout_s is not None, "waits without limit"
        left = begun_s + self._timeout_s - time.monotonic()
        if left <= 0:
            raise FrameTimeoutError(
                f"no frame within {self._timeout_s} s; wait longer, or see that a shot is queued"
            )
        return left


class Reading(_Reading[Item], Iterator[Item]):
    """Iterates over frames or chunks, on any thread; goes on after a timeout."""

    def __next__(self) -> Item:
        begun_s = time.monotonic()
        while True:
            offer = self._frames.offer(self._whole) or self._wait(begun_s)
            if offer is None:
                raise StopIteration
            if offer.opens:
                self._timeline.wake()  # the queue has room for another chunk
            try:
                item: Item = offer.held[0]
                if self._marked:
                    mark("frame.taken", item.index)
                del offer.held[0]  # no call may follow, see ``frame_queue.py``
                return item
            except IndexError:
                pass

    def _wait(self, begun_s: float) -> Offer | None:
        gate, wakers = threading.Lock(), self._frames.wakers
        with annotate("queue.wait"):
            try:
                if self._follow:
                    _waiting_threads().add(threading.current_thread())
                while True:
                    gate.acquire(blocking=False)
                    wakers[gate] = gate.release
                    ends = self._timeline.idle() and (not self._follow or _nobody_can_ask())
                    if (offer := self._frames.offer(self._whole)) is not None or ends:
                        return offer
                    left = _LOOK_S if self._timeout_s is None else self._time_left(begun_s)
                    self._timeline.wake()
                    gate.acquire(timeout=min(left, _LOOK_S))
            finally:
                wakers.pop(gate, None)
                if self._follow:
                    _waiting_threads().discard(threading.current_thread())


class AsyncReading(_Reading[Item], AsyncIterator[Item]):
    """Iterates over frames or chunks in an event loop, without a thread; may be cancelled."""

    def __anext__(self) -> Awaitable[Item]:
        return self._next()

    async def aclose(self) -> None:
        """Do nothing: there is nothing to free. Here because generators have it."""

    async def _next(self) -> Item:
        begun_s = time.monotonic()
        while True:
            offer = self._frames.offer(self._whole)
            if offer is None:
                offer = await self._wait(begun_s)
            elif offer.opens:
                await asyncio.sleep(0)  # other tasks get their turn even if frames are always ready
            if offer is None:
                raise StopAsyncIteration
            if offer.opens:
                self._timeline.wake()
            try:
                item: Item = offer.held[0]
                if self._marked:
                    mark("frame.taken", item.index)
                del offer.held[0]
                return item
            except IndexError:
                pass

    async def _wait(self, begun_s: float) -> Offer | None:
        loop, wakers = asyncio.get_running_loop(), self._frames.wakers
        while True:
            future: asyncio.Future[None] = loop.create_future()
            wakers[future] = partial(loop.call_soon_threadsafe, _finish, future)
            timer = None
            try:
                ends = not self._follow and self._timeline.idle()
                if (offer := self._frames.offer(self._whole)) is not None or ends:
                    return offer
                if self._timeout_s is not None:
                    timer = loop.call_later(self._time_left(begun_s), _finish, future)
                self._timeline.wake()
                await future
            finally:
                wakers.pop(future, None)
                if timer is not None:
                    timer.cancel()


@cache
def _waiting_threads() -> set[threading.Thread]:
    """Return the set of threads that follow a film and wait for frames now."""
    return set()


def _nobody_can_ask() -> bool:
    """Tell whether the program is over except for threads that wait for frames.

    The interpreter waits for its threads before it exits, so one that follows a session would wait
    for a cut that cannot come any more, and the interpreter for it.
    """
    main = threading.main_thread()
    if main.is_alive():
        return False
    waiting = _waiting_threads()
    return all(t is main or t.daemon or t in waiting for t in threading.enumerate())


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
