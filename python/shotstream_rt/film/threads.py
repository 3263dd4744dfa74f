"""The threads of a session.

Their number of CPU threads does not touch those of the host program: ``torch.set_num_threads`` sets
the count of the calling thread and of every thread that the process starts later. A session wants
the first and must not do the second. And waiting for them may be interrupted anywhere.
"""

from __future__ import annotations

import _thread
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..device.c_function import c_function
from ..device.shortage import shortage_told

_LOOK_S = 0.002
_LEAVE_S = 0.25
_STACK_BYTES = 8 << 20
"""Stack of a thread, as it usually is. Matrix products need more than 64 KB."""

_starting = threading.RLock()
"""Held while the stack size of later threads, one setting for the process, is another one."""


class WorkerThread(threading.Thread):
    """A daemon thread of a session, in the context (``contextvars``) of whoever opened it.

    Args:
        name: of the thread.
        target: what it runs.
        count: its intra-op threads on a CPU.
    """

    def __init__(self, name: str, target: Callable[[], None], count: int) -> None:
        super().__init__(name=name, target=target, daemon=True)
        self._count = count
        self._over = False
        self._ready = threading.Event()
        self._context = contextvars.copy_context()

    def start(self) -> None:
        """Start with a stack of the usual size, whatever the host chose for its threads.

        Returns when the thread is set up, which takes it a millisecond: a film's first frame need
        not wait for it. One that is held up, say by a finaliser that the garbage collector runs on
        it and that wants a lock of the caller, is not waited for.
        """
        with _usual_stack(), shortage_told(f"starting {self.name}"):
            super().start()
        self._ready.wait(_LEAVE_S)

    def run(self) -> None:
        """Run the target; when it is over, nothing that it held is held any more."""
        try:
            set_thread_count(self._count)
        finally:
            self._ready.set()
        context = self._context
        del self._context
        try:
            context.run(super().run)
        finally:
            self._over = True

    def wait(self) -> None:
        """Wait until the target is over; on the thread itself, return at once.

        ``join`` alone would not do: if a signal handler interrupts it and joins again, the second
        waits for a lock that the first may hold.
        """
        if self is threading.current_thread() or self.ident is None:
            return
        while not self._over:
            time.sleep(_LOOK_S)
        self.join(_LEAVE_S)


@contextmanager
def _usual_stack() -> Iterator[None]:
    with _starting:
        before = threading.stack_size()
        if not 0 < before < _STACK_BYTES:  # 0 is the system's own choice
            yield
            return
        threading.stack_size(_STACK_BYTES)
        try:
            yield
        finally:
            threading.stack_size(before)


def start_thread(work: Callable[[], object], name: str) -> None:
    """Run something on a daemon thread that has a stack of the usual size.

    Args:
        work: what to run.
        name: of the thread.
    """
    with _usual_stack():
        threading.Thread(target=work, name=name, daemon=True).start()


def holds_one_of(*locks: Any) -> bool:
    """Tell whether the calling thread holds one of some reentrant locks.

    In a signal handler it holds what the interrupted code holds. It must not wait there for a
    thread that may want such a lock.
    """
    return any(lock._is_owned() for lock in locks)


def in_background(work: Callable[[], None]) -> None:
    """Run something on another thread, and wait for nothing, not even for it to start.

    ``threading.Thread.start`` waits until the thread has taken a lock of the interpreter, which
    code that a signal interrupted may hold. So it is called on a thread that nobody waits for.
    """
    _thread.start_new_thread(start_thread, (work, "shotstream-close"))


def set_thread_count(count: int) -> None:
    """Set the intra-op threads of the calling thread, and of no other.

    Args:
        count: threads, at least 1.
    """
    before = torch.get_num_threads()  # also makes torch set up this thread, once
    # Once the host has called ``torch.set_num_threads``, MKL takes that count on every thread,
    # whatever OpenMP's is, and another count gives other sums. A thread's own goes first.
    if (set_mkl_threads := _mkl_setter()) is not None:
        set_mkl_threads(count)
    if before == count:
        return
    if (set_openmp_threads := _openmp_setter()) is not None:
        set_openmp_threads(count)
        if torch.get_num_threads() == count:
            return
    # Where torch does not use the OpenMP library that was found: set both, and put the count for
    # later threads back from a thread that ends at once.
    torch.set_num_threads(count)
    restoring = threading.Thread(target=torch.set_num_threads, args=(before,))
    restoring.start()
    restoring.join()


@cache
def _mkl_setter() -> Callable[[int], None] | None:
    """Return MKL's own function, which sets the calling thread alone; None where it hides."""
    if not torch.backends.mkl.is_available():
        return None
    # In torch's own library where it was linked into it, else in the program.
    own = str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")
    name = "MKL_Set_Num_Threads_Local"
    return c_function(name, own) or c_function(name)


@cache
def _openmp_setter() -> Callable[[int], None] | None:
    """Return OpenMP's own function, which sets the calling thread alone; None where it hides."""
    return c_function("omp_set_num_threads")
