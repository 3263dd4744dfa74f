"""Output files and folders that are either whole or not there.

Everything is written beside its target under a temporary name, ``.NAME.XXXXXXXX.part`` with eight
random letters, and renamed at the end. On any failure the temporary file or folder is removed, and
an ``OSError`` becomes an ``OutputError`` that names the target. What a killed process leaves behind
is known by that name and may be deleted when no process is writing.

Only regular files are replaced. A link stays a link: the file that it points to is replaced.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError
from .inputs import kind_of_file

_ADVICE = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EFBIG: "write elsewhere, or raise the limit on file sizes",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENXIO: "if it is a pipe, start whoever reads it first",
}


def output_error(target: Path, error: OSError) -> OutputError:
    """Return what to raise when ``target`` could not be written."""
    advice = _ADVICE.get(error.errno or 0)
    reason = error.strerror or str(error)
    return OutputError(f"{target}: cannot be written: {reason}" + (f"; {advice}" if advice else ""))


def check_ending(target: str | Path, ending: str | None) -> Path:
    """Return the path of an output that is not empty and ends as its contents are called.

    Raises:
        OutputError: it is empty, or ends otherwise.
    """
    path = Path(target)
    if not str(target):
        raise OutputError("output: got an empty name, wanted the name of a file or folder")
    if ending is not None and path.suffix.lower() != ending:
        raise OutputError(
            f"{path}: ends in {path.suffix or 'nothing'}, wanted a name that ends in {ending}, "
            "which is what is written"
        )
    return path


def check_file_target(target: str | Path, *, ending: str | None = None) -> Path:
    """Return the file that writing to ``target`` makes or replaces; nothing is written yet.

    Args:
        target: name of the output.
        ending: what it has to end in, such as ``.mp4``, in small or capital letters.

    Raises:
        OutputError: the name ends otherwise, something that is no regular file has it already, the
            file there is write-protected, or nothing can be written in its folder.
    """
    path = check_ending(target, ending)
    real = _replaceable_file(path)
    _try_to_write(path, real)
    return real


def check_folder_target(target: str | Path, *, own: str) -> Path:
    """Return the folder that writing to ``target`` makes or replaces; nothing is written yet.

    Args:
        target: name of the folder.
        own: pattern of the names of files that an earlier run has written. A folder that holds
            nothing else is replaced as a whole.

    Raises:
        OutputError: it exists and is no folder or holds other files, or it cannot be replaced.
    """
    path = check_ending(target, None)
    real = _replaceable_folder(path, own)
    _try_to_write(path, real)
    return real


def _replaceable_file(path: Path) -> Path:
    real, status = _look(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise OutputError(
            f"{path}: is {kind_of_file(status.st_mode)}, wanted a new name or that of a regular "
            "file, which is replaced"
        )
    if status is not None and not os.access(real, os.W_OK):
        raise OutputError(f"{path}: is write-protected; choose another name")
    return real


def _replaceable_folder(path: Path, own: str) -> Path:
    real, status = _look(path)
    if status is not None:
        if not stat.S_ISDIR(status.st_mode):
            raise OutputError(
                f"{path}: is {kind_of_file(status.st_mode)}, wanted the name of a folder"
            )
        try:
            strangers = [
                entry.name
                for entry in real.iterdir()
                if not re.fullmatch(own, entry.name) or entry.is_symlink() or not entry.is_file()
            ]
        except OSError as error:
            raise output_error(path, error) from error
        if strangers:
            raise OutputError(
                f"{path}: holds other files ({min(strangers)!r}), wanted a new or empty folder, or "
                "one that an earlier run of this wrote, which is replaced"
            )
        if os.path.ismount(real) or real == Path.cwd():
            place = "is a mount point" if os.path.ismount(real) else "is the working folder"
            raise OutputError(f"{path}: {place}; name a new folder inside it")
    return real


def _look(path: Path) -> tuple[Path, os.stat_result | None]:
    """Follow links; return the real path and what is there, None if nothing."""
    try:
        real = Path(os.path.realpath(path))
        try:
            return real, path.stat()
        except FileNotFoundError:
            return real, None
    except OSError as error:
        raise output_error(path, error) from error
    except ValueError as error:
        raise OutputError(f"{path!r}: not a usable name ({error})") from error


def _try_to_write(path: Path, real: Path) -> None:
    """Make and remove a file in the nearest folder that exists above a target."""
    parent = real.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(f"{path}: cannot be written: {parent} is not a folder")
    with _told_as_output_error(path):
        part = _temporary_name(parent / real.name)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        part.unlink()


def _temporary_name(real: Path) -> Path:
    # Letters that no library reads a meaning into (a colon makes a URL of a name, to some), and
    # few enough that the longest name still has room for what is added.
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", real.name)[:80]
    return real.with_name(f".{plain}.{secrets.token_hex(4)}.part")


@contextmanager
def _folders_above(real: Path) -> Iterator[None]:
    """Make the folders above a target; those made are removed again if the body fails."""
    made: list[Path] = []
    missing = [parent for parent in real.parents if not parent.exists()]
    try:
        for parent in reversed(missing):
            with suppress(FileExistsError):
                parent.mkdir()
                made.append(parent)
        yield
    except BaseException:
        for parent in reversed(made):
            with suppress(OSError):
                parent.rmdir()
        raise


@contextmanager
def _told_as_output_error(target: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise output_error(target, error) from error


@contextmanager
def atomic_file(target: str | Path) -> Iterator[Path]:
    """Give a temporary path that becomes ``target`` if the body succeeds and vanishes if not.

    The file at the path is there already and empty, made so that nobody else's is opened in its
    place; write to it under that name. It gets the mode and, where allowed, the owner of the file
    it replaces, and is on the disk before it gets the name.

    Raises:
        OutputError: see ``check_file_target``; or writing or renaming failed.
    """
    target = Path(target)
    real = check_file_target(target)
    with _told_as_output_error(target), _folders_above(real):
        part = _temporary_name(real)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(part, flags, 0o666)
        try:
            mode = os.fstat(handle).st_mode  # what the process's umask makes of a new file
            part.chmod(0o600)
            yield part
            _check_untouched(part, handle)
            _take_over(real, part, mode)
            _sync(handle)
            _replaceable_file(target)
            part.replace(real)
            _sync_path(real.parent)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        finally:
            os.close(handle)


@contextmanager
def atomic_folder(target: str | Path, *, own: str) -> Iterator[Path]:
    """Give a temporary folder that becomes ``target`` if the body succeeds and vanishes if not.

    Args:
        target: the folder; see ``check_folder_target``.
        own: pattern of the names of files in it that may be replaced.

    Raises:
        OutputError: see ``check_folder_target``; or writing or renaming failed.
    """
    target = Path(target)
    real = check_folder_target(target, own=own)
    with _told_as_output_error(target), _folders_above(real):
        part = _temporary_name(real)
        part.mkdir()
        try:
            mode = part.stat().st_mode
            part.chmod(0o700)
            yield part
            for path in part.iterdir():
                _sync_path(path)
            _take_over(real, part, mode)
            _sync_path(part)
            _replaceable_folder(target, own)
            _swap(part, real)
            _sync_path(real.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _swap(part: Path, real: Path) -> None:
    """Put a folder in the place of another one, which is deleted."""
    if not real.exists():
        part.rename(real)
        return
    old = _temporary_name(real)
    real.rename(old)
    try:
        part.rename(real)
    except BaseException:
        old.rename(real)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_untouched(part: Path, handle: int) -> None:
    """Require that the temporary name still stands for the file that was made under it."""
    made, found = os.fstat(handle), os.lstat(part)
    if (made.st_dev, made.st_ino) != (found.st_dev, found.st_ino):
        raise OutputError(f"{part}: another process has put its own file there; write elsewhere")


def _take_over(real: Path, part: Path, mode: int) -> None:
    """Give a finished file or folder the owner and mode of the one it replaces."""
    try:
        old = real.stat()
    except FileNotFoundError:
        part.chmod(stat.S_IMODE(mode))
        return
    change_owner: Callable[..., None] | None = getattr(os, "chown", None)
    if change_owner is not None:
        with suppress(PermissionError):  # only root may give a file away
            change_owner(part, old.st_uid, old.st_gid)
    part.chmod(stat.S_IMODE(old.st_mode) & 0o777)


def _sync(handle: int) -> None:
    """Wait until a file or folder is on the disk, where its file system can tell."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def _sync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        _sync(handle)
    finally:
        os.close(handle)
