"""Functions of C libraries that the process has loaded."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any


@cache
def c_function(name: str, library: str | None = None) -> Callable[..., Any] | None:
    """Return a function of a C library; None where there is none of this name.

    Args:
        name: of the function.
        library: the library's file; None looks among all that the program has loaded.
    """
    with suppress(OSError, TypeError, AttributeError):  # Windows has no handle for the program
        return getattr(ctypes.CDLL(library), name)  # type: ignore[no-any-return]
    return None
