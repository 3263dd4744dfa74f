"""Memory and threads that the system does not give, as one typed error.

Libraries tell of it in their own words: torch and oneDNN raise ``RuntimeError``, Python
``MemoryError``, or ``RuntimeError`` for a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DeviceError, ShotStreamError
from ..printable import printable

_WORDS = (
    "allocate memory", "out of memory", "not enough memory", "bad_alloc",
    "could not create a primitive", "can't start new thread",
)  # fmt: skip


@contextmanager
def shortage_told(doing: str) -> Iterator[None]:
    """Turn a shortage in the body into a ``DeviceError``; also a decorator.

    Args:
        doing: what failed, such as ``opening the model``.

    Raises:
        DeviceError: the body ran out of memory or threads.
    """
    try:
        yield
    except ShotStreamError:
        raise
    except (MemoryError, RuntimeError, SystemError) as error:
        if not (isinstance(error, MemoryError) or any(word in str(error) for word in _WORDS)):
            raise
        first_line = printable(f"{type(error).__name__}: {error}".partition("\n")[0], 300)
        raise DeviceError(
            f"{doing}: the system gives no more memory or threads ({first_line}); use a smaller "
            "size or model, or fewer sessions"
        ) from error
