"""Output files that are either whole or not there.

Every file is written beside its target under a temporary name and renamed at the end. On any
failure the temporary file is removed, and an ``OSError`` becomes an ``OutputError`` that names the
target.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError

_ADVICE = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EFBIG: "write elsewhere, or raise the limit on file sizes",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
}


def output_error(target: Path, error: OSError) -> OutputError:
    """Return what to raise when ``target`` could not be written."""
    advice = _ADVICE.get(error.errno or 0)
    reason = error.strerror or str(error)
    return OutputError(f"{target}: cannot be written: {reason}" + (f"; {advice}" if advice else ""))


def temporary_name(target: Path) -> Path:
    """Return a hidden sibling of ``target`` for this process, with the same ending."""
    return target.with_name(f".{target.stem}.part-{os.getpid()}{target.suffix}")


def prepare(target: Path) -> Path:
    """Create the folder of ``target`` and return the temporary name to write to.

    Raises:
        OutputError: ``target`` is a folder, or its folder cannot be made.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(target, error) from error
    if target.is_dir():
        raise OutputError(f"{target}: is a folder, wanted the name of a file")
    return temporary_name(target)


@contextmanager
def atomic_file(target: str | Path) -> Iterator[Path]:
    """Give a temporary path that becomes ``target`` if the body succeeds and vanishes if not.

    Raises:
        OutputError: writing or renaming failed.
    """
    target = Path(target)
    part = prepare(target)
    try:
        yield part
        part.replace(target)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise output_error(target, error) from error
        raise
