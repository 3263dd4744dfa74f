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
from typing import Generic, Protocol, TypeVar

from ..checks import check_flag, check_timeout
from ..errors import FrameTimeoutError
from ..nvtx import annotate, level, mark
from ..types import Chunk, Frame
from .frame_queue import FrameQueue, Offer

_LOOK_S = 0.5
"""Longest a waiting thread sleeps without looking: where locks cannot be interrupted (Windows),
Ctrl-C is noticed then."""

Item = TypeVar("Item", Frame, Chunk)


class Source(Protocol):
    """Makes what is read."""

    def idle(self) -> bool:
        """Tell whether nothing more will come until another shot is queued."""
        ...

    def wake(self) -> None:
        """Look again whether the queue has room."""
        ...


class _Reading(Generic[Item]):
    """What iterators for threads and for event loops have in common.

    Args:
        frames: where frames come from.
        source: makes them.
        owner: kept alive as long as somebody reads.
        whole: whether to take whole chunks.
        follow: wait although nothing is queued.
        timeout_s: longest wait for an item in seconds; None waits without limit.

    Raises:
        ConfigError: ``follow`` or ``timeout_s`` is not usable.
    """

    def __init__(
        self,
        frames: FrameQueue,
        source: Source,
        owner: object,
        *,
        whole: bool,
        follow: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        self._frames, self._source, self._owner = frames, source, owner
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
        begun_s, tickets = time.monotonic(), self._frames.tickets
        while True:
            offer = self._frames.offer(self._whole) or self._wait(begun_s)
            if offer is None:
                raise StopIteration
            if offer.opens:
                self._source.wake()  # the queue has room for another chunk
            item: Item = offer.item
            if self._marked:  # here, as no call may follow the acceptance
                mark("frame.taken", item.index)
            try:
                # Python looks for signals on calls and jumps back, and there is none from here on.
                del tickets[offer.ticket]
            except KeyError:
                continue
            return item

    def _wait(self, begun_s: float) -> Offer | None:
        gate, wakers = threading.Lock(), self._frames.wakers
        with annotate("queue.wait"):
            try:
                if self._follow:
                    _waiting_threads().add(threading.current_thread())
                while True:
                    gate.acquire(blocking=False)
                    wakers[gate] = gate.release
                    ends = self._source.idle() and (not self._follow or _nobody_can_ask())
                    if (offer := self._frames.offer(self._whole)) is not None or ends:
                        return offer
                    left = _LOOK_S if self._timeout_s is None else self._time_left(begun_s)
                    self._source.wake()
                    gate.acquire(timeout=min(left, _LOOK_S))
                    wakers.pop(gate, None)
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
        begun_s, tickets = time.monotonic(), self._frames.tickets
        while True:
            offer = self._frames.offer(self._whole)
            if offer is None:
                offer = await self._wait(begun_s)
            elif offer.opens:
                await asyncio.sleep(0)  # other tasks get their turn even if frames are always ready
            if offer is None:
                raise StopAsyncIteration
            if offer.opens:
                self._source.wake()
            item: Item = offer.item
            if self._marked:
                mark("frame.taken", item.index)
            try:
                del tickets[offer.ticket]
            except KeyError:
                continue
            return item

    async def _wait(self, begun_s: float) -> Offer | None:
        loop, wakers = asyncio.get_running_loop(), self._frames.wakers
        while True:
            future: asyncio.Future[None] = loop.create_future()
            wakers[future] = partial(loop.call_soon_threadsafe, _finish, future)
            timer = None
            try:
                ends = not self._follow and self._source.idle()
                if (offer := self._frames.offer(self._whole)) is not None or ends:
                    return offer
                if self._timeout_s is not None:
                    timer = loop.call_later(self._time_left(begun_s), _finish, future)
                self._source.wake()
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
