"""Work that blocks, awaited in an event loop without one of the loop's threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from .threads import start_thread

_Result = TypeVar("_Result")


async def on_own_thread(
    work: Callable[[], _Result], undo: Callable[[_Result], None] | None = None
) -> _Result:
    """Run something that blocks on a thread of its own, and not on one of the event loop's.

    Args:
        work: what to run.
        undo: called, on a thread, with the result if nobody waits for it any more.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def hand_over(result: _Result) -> None:
        if not future.done():
            future.set_result(result)
        elif undo is not None:
            start_thread(partial(undo, result), "shotstream-open")

    def hand_over_error(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    def main() -> None:
        try:
            result = work()
        except BaseException as error:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(hand_over_error, error)
            return
        try:
            loop.call_soon_threadsafe(hand_over, result)
        except RuntimeError:
            if undo is not None:
                undo(result)

    start_thread(main, "shotstream-open")
    return await future
