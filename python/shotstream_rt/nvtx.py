"""Named profiler ranges, the same names as ``runtime/include/shotstream/nvtx.h``.

One domain, fixed strings, numbers as payload. Off unless ``SHOTSTREAM_NVTX`` asks for it, and then
a no-op where the ``nvtx`` package is missing. Ranges inside a captured graph do not replay.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

from . import env

DOMAIN = "shotstream"

RangeName = Literal[
    "session.open", "text.encode", "context.encode", "context.pass", "chunk", "step", "renoise",
    "commit", "vae.decode", "frame.pack", "host.copy", "queue.put", "queue.wait",
]  # fmt: skip
DetailName = Literal["layer", "attn", "cross", "ffn"]
DETAIL_LEVEL = 2
"""Level at which ``detail`` marks anything."""
RANGE_NAMES: tuple[str, ...] = get_args(RangeName)

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
    """Return a context manager that marks the enclosed host time.

    Args:
        name: one of the registered names.
        payload: a number shown with the range, such as the chunk.
    """
    return _range(name, payload) if level() >= 1 else _OFF


def detail(name: DetailName, payload: int | None = None) -> AbstractContextManager[Any]:
    """Return a range of the ``detail`` level (layers and their parts)."""
    return _range(name, payload) if level() >= DETAIL_LEVEL else _OFF


def _range(name: str, payload: int | None) -> AbstractContextManager[Any]:
    import nvtx

    marked: AbstractContextManager[Any] = nvtx.annotate(name, domain=DOMAIN, payload=payload)
    return marked
