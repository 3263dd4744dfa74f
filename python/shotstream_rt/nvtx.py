"""Named profiler ranges and marks; the metric names of the benchmark have the ranges' stems.

One domain, fixed strings, numbers as payload. Off unless ``SHOTSTREAM_NVTX`` asks for it, and then
a no-op where the ``nvtx`` package is missing. Ranges inside a captured graph do not replay.

Marks join a request to the picture: ``ask`` and ``applied`` carry the request's number as their
category, and as payload the first frame that was not read yet, and the first one that shows the
request. ``frame.made`` is a chunk's first frame when it waits for the reader, ``frame.taken`` every
frame that is read, or a chunk's first where chunks are read.
"""

from __future__ import annotations

import functools
import gc
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

from . import env

DOMAIN = "shotstream"

RangeName = Literal[
    "session.open", "text.encode", "context.encode", "context.pass", "chunk", "step", "renoise",
    "commit", "vae.decode", "frame.pack", "host.copy", "queue.put", "queue.wait", "python.gc",
]  # fmt: skip
MarkName = Literal["ask", "applied", "frame.made", "frame.taken"]
DetailName = Literal["layer", "attn", "cross", "ffn"]
DETAIL_LEVEL = 2
"""Level at which ``detail`` marks anything."""
RANGE_NAMES: tuple[str, ...] = get_args(RangeName)
MARK_NAMES: tuple[str, ...] = get_args(MarkName)

_OFF: AbstractContextManager[Any] = nullcontext()


@functools.cache
def level() -> int:
    """Return the level asked for; 0 when the ``nvtx`` package is not installed."""
    wanted = env.nvtx_level()
    if wanted == 0:
        return 0
    try:
        import nvtx  # noqa: F401
    except ImportError:
        return 0
    return wanted


def annotate(name: RangeName, payload: int | None = None) -> AbstractContextManager[Any]:
    """Return what marks the enclosed host time, with a number such as the chunk's."""
    return _range(name, payload) if level() >= 1 else _OFF


def detail(name: DetailName, payload: int | None = None) -> AbstractContextManager[Any]:
    """Return a range of the ``detail`` level (layers and their parts)."""
    return _range(name, payload) if level() >= DETAIL_LEVEL else _OFF


def mark(name: MarkName, frame: int | None, request: int | None = None) -> None:
    """Mark this moment.

    Args:
        name: one of the registered names.
        frame: number of the frame that it is about; None where there is none.
        request: ``Receipt.id`` of the request that it is about.
    """
    if level() >= 1:
        import nvtx

        nvtx.mark(name, domain=DOMAIN, payload=frame, category=request)


@functools.cache
def mark_garbage_collection() -> None:
    """Make every run of Python's garbage collector a range, from now on; payload: generation.

    The collector stops all threads of the interpreter, so that a chunk it falls into takes longer.
    """
    if level() == 0:
        return
    entered: list[AbstractContextManager[Any]] = []

    def collecting(phase: str, info: dict[str, int]) -> None:
        # One run at a time, begun and ended on one thread.
        if phase == "start":
            entered.append(annotate("python.gc", info["generation"]))
            entered[-1].__enter__()
        elif entered:
            entered.pop().__exit__(None, None, None)

    gc.callbacks.append(collecting)


def _range(name: str, payload: int | None) -> AbstractContextManager[Any]:
    import nvtx

    marked: AbstractContextManager[Any] = nvtx.annotate(name, domain=DOMAIN, payload=payload)
    return marked
