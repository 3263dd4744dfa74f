"""Hugging Face's hub library: imported when something is to be fetched, its errors in words."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shotstream_rt import env
from shotstream_rt.errors import ConfigError, FetchError
from shotstream_rt.printable import printable

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _none() -> None:
    return None


def hub_library() -> Any:
    """Import the library; raises ``ConfigError`` where it is not installed."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ConfigError(
            "fetching needs the Python package 'huggingface_hub', which is not installed or cannot "
            f"be imported ({error}): pip install 'shotstream_rt[hub]'"
        ) from error


@contextmanager
def told(where: str, own: Callable[[], BaseException | None] = _none) -> Iterator[None]:
    """Turn what the library and its network raise into an error that says what to do.

    Args:
        where: what is asked for.
        own: tells what the caller of the library raised inside of it, which is left as it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, FetchError) or error is own():
            raise
        raise FetchError(f"{where}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    kind, text = type(error).__name__, printable(" ".join(str(error).split()), 200)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return (
            f"the disk is full ({error.strerror}); make room, or {elsewhere()}. What is there is "
            "kept, and the next fetch goes on from there"
        )
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError",
                "RemoteEntryNotFoundError") or status == 404:  # fmt: skip
        return f"the server has no such repository, revision or file ({text})"
    if kind == "GatedRepoError" or status in (401, 403):
        return (
            "the server does not let you have it; accept its licence on its page and log in "
            f"(hf auth login) ({text})"
        )
    if status is not None:
        return f"the server answered {status}; try again later ({text})"
    return (
        f"the server cannot be reached, or broke off ({kind}: {text}); what is here is kept, and "
        "the next fetch goes on from there"
    )


def elsewhere() -> str:
    """Return what to do where a disk has no room."""
    return f"set {env.CACHE_DIR} to a folder on another disk"
