"""A thread's companion: a second thread that computes half of a pass beside it.

Threads inside each operation, torch's own way, wait for one another some thirty times a layer, and
each wait costs more where another thread (the decoder's) has the core. A companion runs the same
operations on the other half of the rows, so the two wait for one another once a layer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

_Result = TypeVar("_Result")
_Work = Callable[[], Any]


class Companion:
    """What a thread gives its companion to do.

    ``serve`` runs on the companion's thread until ``dismiss``; the other calls are its owner's.
    """

    def __init__(self) -> None:
        self._given: SimpleQueue[_Work | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._meeting = threading.Barrier(2)

    def both(
        self, own: Callable[[], _Result], other: Callable[[], _Result]
    ) -> tuple[_Result, _Result]:
        """Run one function here and another one on the companion; return when both are over.

        Either may call ``meet``, the same number of times. If one fails, the other ends where it
        meets it next.

        Args:
            own: run on the calling thread.
            other: run on the companion's.

        Returns:
            Both results.

        Raises:
            BaseException: whatever the first of them to fail raised.
        """
        self._given.put(other)
        mine, failure = self._attempt(own)
        others, its_failure = self._done.get()
        if self._meeting.broken:
            self._meeting.reset()
        # The one that found the meeting broken did not fail by itself.
        failures = [error for error in (failure, its_failure) if error is not None]
        del failure, its_failure
        try:
            while failures:
                if not isinstance(failures[0], threading.BrokenBarrierError):
                    raise failures[0]
                del failures[0]
        finally:
            failures.clear()  # an error that holds this frame must not be held by it
        return mine, others

    def meet(self) -> None:
        """Wait until the other one of the two functions is here too.

        Raises:
            threading.BrokenBarrierError: it failed.
        """
        self._meeting.wait()

    def serve(self) -> None:
        """Do what is given, until dismissed."""
        with torch.inference_mode():
            while (work := self._given.get()) is not None:
                done = self._attempt(work)
                del work
                self._done.put(done)
                del done

    def dismiss(self) -> None:
        """Let ``serve`` return."""
        self._given.put(None)

    def _attempt(self, work: _Work) -> tuple[Any, BaseException | None]:
        try:
            return work(), None
        except BaseException as error:
            self._meeting.abort()
            return None, error
