"""Reading of text and JSON files that others wrote, within bounds.

Only regular files are read, so that a pipe nobody writes to does not stop the program, and a device
without end does not fill the memory.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import ConfigError, ShotStreamError
from .printable import printable, shown

_MOST_OF_A_NAME = 300


def read_text(
    path: Path, *, limit_bytes: int, what: str, error: type[ShotStreamError] = ConfigError
) -> str:
    """Return the text of a UTF-8 file; a byte order mark is dropped.

    Args:
        path: the file.
        limit_bytes: largest accepted size.
        what: such as ``story``, for messages.
        error: class of the errors raised.

    Raises:
        ShotStreamError: of class ``error``: no such file, no regular file, too large, not UTF-8.
    """
    data = read_bytes(path, limit_bytes=limit_bytes, what=what, error=error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as failed:
        name = printable(path, _MOST_OF_A_NAME)
        raise error(f"{name}: not UTF-8 text ({failed.reason} at byte {failed.start})") from failed


def read_bytes(
    path: Path, *, limit_bytes: int, what: str, error: type[ShotStreamError] = ConfigError
) -> bytes:
    """Return the bytes of a file.

    Args:
        path: the file.
        limit_bytes: largest accepted size.
        what: such as ``story``, for messages.
        error: class of the errors raised.

    Raises:
        ShotStreamError: of class ``error``: no such file, no regular file, or too large.
    """
    name = printable(path, _MOST_OF_A_NAME)
    try:
        return _read_bytes(path, name, limit_bytes, what, error)
    except FileNotFoundError as failed:
        raise error(f"{name}: no such {what} file") from failed
    except OSError as failed:
        raise error(f"{name}: cannot be read ({failed.strerror or failed})") from failed


def parse_json(text: str, where: object, error: type[ShotStreamError] = ConfigError) -> Any:
    """Return the value of a JSON text.

    Args:
        text: the text.
        where: the file's name, for messages.
        error: class of the errors raised.

    Raises:
        ShotStreamError: of class ``error``: not JSON, nested too deeply, a number with too many
            digits, or a key that stands twice in one object (of which one would be lost).
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise error(f"{where}: key {shown(key)} stands twice, wanted every key once")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except ShotStreamError:
        raise
    except RecursionError as failed:
        raise error(f"{where}: not a usable JSON file (nested too deeply)") from failed
    except ValueError as failed:
        raise error(f"{where}: not a JSON file ({failed})") from failed


def _read_bytes(
    path: Path, name: str, limit: int, what: str, error: type[ShotStreamError]
) -> bytes:
    try:
        # Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except ValueError as failed:
        raise error(f"{name}: not a file name ({failed})") from failed
    try:
        kind = os.fstat(handle)
        if not stat.S_ISREG(kind.st_mode):
            got = kind_of_file(kind.st_mode)
            raise error(f"{name}: cannot be read: is {got}, wanted a {what} file")
        with open(handle, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(data) > limit:
        raise error(f"{name}: larger than {limit} bytes, not a {what}")
    return data


def is_file(path: Path) -> bool:
    """Tell whether a regular file is there; not if this process may not look."""
    with suppress(OSError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """Tell whether a folder is there; not if this process may not look."""
    with suppress(OSError):
        return path.is_dir()
    return False


def kind_of_file(mode: int) -> str:
    """Name what a file is, such as ``a folder`` or ``a pipe``, by the mode that ``stat`` tells."""
    kinds = {
        stat.S_IFREG: "a regular file",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFLNK: "a link",
    }
    return kinds.get(stat.S_IFMT(mode), "no file of a known kind")
