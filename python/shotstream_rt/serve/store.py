"""Where films are kept so that another process can go on with them.

A store keeps named bytes for each film. ``Store`` says what a server wants of one; ``FolderStore``
is one in a folder, which several processes, also of several machines, may share.

Whatever happens to a process, nothing half-written is ever read: ``put`` is all or nothing, and
what ``append`` adds counts only once something that was put says how long it is. ``claim`` lets
one process at a time write to a film.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from ..errors import ConfigError, OutputError
from ..inputs import read_bytes
from ..outputs import atomic_file
from ..printable import shown
from .problems import HeldError, StoreError

FILM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What the name of a film looks like; nothing else becomes the name of a folder."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}(\.[a-z0-9]{1,8})?")
_LEASE = "lease"
_MOST_BYTES = 2**30
"""Largest value that is read at once: a snapshot may have that much."""
_LEFT_BEHIND = ".*.part"
"""What a process that was killed while it wrote leaves of a value."""


class Lease(Protocol):
    """The right to write to one film. It ends with ``release`` and with the process."""

    def release(self) -> None:
        """Let another process have the film; may be called again."""
        ...


class Store(Protocol):
    """Keeps named bytes of films. May be called from any thread.

    A film is there once its value ``state`` was put. Names are small letters, digits and ``-_``,
    with an ending at most. Whoever puts, appends or deletes holds the film's lease.

    Every method raises ``StoreError`` where the store fails, and ``ConfigError`` for a name that
    cannot be one.
    """

    def films(self) -> tuple[str, ...]:
        """Return the names of all films, in order."""
        ...

    def list(self, film: str) -> tuple[str, ...]:
        """Return the names of a film's values, in order."""
        ...

    def get(self, film: str, name: str) -> bytes | None:
        """Return a value, as it was put last; None if there is none."""
        ...

    def put(self, film: str, name: str, data: bytes) -> None:
        """Set a value. It is safe once this returns; until then the old one is.

        Args:
            film: whose value.
            name: of the value, which is made if it is missing.
            data: all its bytes.
        """
        ...

    def append(self, film: str, name: str, data: bytes, *, at: int) -> None:
        """Write bytes at a place of a long value and end it behind them.

        They are safe once this returns. A process that is killed before may leave some of them, so
        what was appended counts only up to a length that was put elsewhere, and the next one begins
        to write there.

        Args:
            film: whose value.
            name: of the value, which is made if it is missing.
            data: the bytes.
            at: length in bytes of what is kept before them.
        """
        ...

    def read(self, film: str, name: str, offset: int, size: int) -> bytes:
        """Return a part of a value that was appended to.

        Args:
            film: whose value.
            name: of the value.
            offset: first byte, from 0.
            size: how many bytes, all of which there have to be.
        """
        ...

    def delete(self, film: str) -> None:
        """Delete a film with all its values; nothing happens if there is none."""
        ...

    def claim(self, film: str) -> Lease:
        """Take the right to write to a film, which may be a new one.

        Raises:
            HeldError: another process, or another part of this one, has it.
        """
        ...


class FolderStore:
    """A store in a folder: a folder for every film, a file for every value.

    On a shared file system it has to have locks that hold between machines (NFS 4, Lustre with
    ``flock``, CephFS): the lease is such a lock, which ends with its process however that ends.

    Args:
        folder: made if it is missing, for its owner alone.

    Raises:
        ConfigError: it cannot be used.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).absolute()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            next(os.scandir(self._folder), None)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"store: {shown(str(folder))} cannot be used ({reason}); wanted a folder that may "
                "be written to, or a new one"
            ) from error
        if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(f"store: {shown(str(folder))} may not be written to by this process")

    def films(self) -> tuple[str, ...]:
        """Return the names of all films; see ``Store``, here and below."""
        with _told("the films", "listed"):
            names = sorted(entry.name for entry in os.scandir(self._folder))
        return tuple(name for name in names if FILM_ID.fullmatch(name) and self._there(name))

    def list(self, film: str) -> tuple[str, ...]:
        """Return the names of a film's values."""
        names: tuple[str, ...] = ()
        with _told(f"film {film}", "listed"), suppress(FileNotFoundError):
            names = tuple(path.name for path in self._of(film).iterdir())
        return tuple(sorted(n for n in names if _NAME.fullmatch(n) and n != _LEASE))

    def get(self, film: str, name: str) -> bytes | None:
        """Return a value."""
        path = self._path(film, name)
        if not os.path.lexists(path):
            return None
        try:
            return read_bytes(path, limit_bytes=_MOST_BYTES, what="store", error=StoreError)
        except StoreError as error:
            if not os.path.lexists(path):
                return None  # it was deleted meanwhile
            raise StoreError(f"film {film}: {name}: cannot be read") from error

    def put(self, film: str, name: str, data: bytes) -> None:
        """Set a value.

        Args:
            film: whose value.
            name: of the file.
            data: all its bytes.
        """
        path = self._path(film, name)
        try:
            with atomic_file(path) as part:
                part.write_bytes(data)
        except OutputError as error:
            reason = getattr(error.__cause__, "strerror", None) or "it is no regular file"
            raise StoreError(f"film {film}: {name}: cannot be written ({reason})") from error

    def append(self, film: str, name: str, data: bytes, *, at: int) -> None:
        """Write behind what a long value has.

        Args:
            film: whose value.
            name: of the file.
            data: the bytes.
            at: length in bytes of what is kept before them; what there is behind that is cut off.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with _told(f"film {film}: {name}", "written"):
            handle = os.open(self._path(film, name), flags, 0o600)
            try:
                length = os.fstat(handle).st_size
                if length < at:
                    raise StoreError(f"film {film}: {name}: has {length} bytes, wanted {at}")
                if length > at:
                    os.ftruncate(handle, at)
                written = 0
                while written < len(data):
                    written += os.pwrite(handle, data[written:], at + written)
                os.fsync(handle)
            finally:
                os.close(handle)

    def read(self, film: str, name: str, offset: int, size: int) -> bytes:
        """Return some bytes of a long value.

        Args:
            film: whose value.
            name: of the file.
            offset: first byte, from 0.
            size: how many bytes.
        """
        with _told(f"film {film}: {name}", "read"):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            handle = os.open(self._path(film, name), flags)
            try:
                data = os.pread(handle, size, offset)
            finally:
                os.close(handle)
        if len(data) < size:
            raise StoreError(
                f"film {film}: {name}: ends at byte {offset + len(data)}, wanted {offset + size}"
            )
        return data

    def delete(self, film: str) -> None:
        """Delete a film: what says that it is there goes first."""
        folder = self._of(film)
        with _told(f"film {film}", "deleted"):
            (folder / "state").unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)

    def claim(self, film: str) -> Lease:
        """Take the lock of a film's lease file, and tidy up behind a process that was killed."""
        folder = self._of(film)
        with _told(f"film {film}", "claimed"):
            folder.mkdir(mode=0o700, exist_ok=True)
            try:
                lease = _FileLease.take(folder / _LEASE, film)
            except OSError:
                with suppress(OSError):
                    folder.rmdir()  # a disk that is full had room for the folder alone
                raise
            for part in folder.glob(_LEFT_BEHIND):
                part.unlink(missing_ok=True)
        return lease

    def _there(self, film: str) -> bool:
        state = self._folder / film / "state"
        return state.is_file() and not state.is_symlink() and not state.parent.is_symlink()

    def _of(self, film: str) -> Path:
        if not FILM_ID.fullmatch(film):
            raise ConfigError(f"film: got {shown(film)}, wanted up to 64 letters, digits and -_")
        folder = self._folder / film
        if folder.is_symlink():
            raise StoreError(f"film {film}: is a link, wanted a folder of the store's own")
        return folder

    def _path(self, film: str, name: str) -> Path:
        if not _NAME.fullmatch(name) or name == _LEASE:
            raise ConfigError(f"value: got {shown(name)}, wanted a name such as film.json")
        path = self._of(film) / name
        if path.is_symlink():
            raise StoreError(f"film {film}: {name}: is a link, wanted a file of the store's own")
        return path


class _FileLease:
    """A locked file. The lock is the operating system's, so no process has to time it.

    Args:
        handle: the file, open and locked.
    """

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    @classmethod
    def take(cls, path: Path, film: str) -> _FileLease:
        """Lock a file, which is made if it is missing.

        Raises:
            HeldError: it is locked already.
        """
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found, named = os.fstat(handle), path.lstat()
                if (found.st_dev, found.st_ino) == (named.st_dev, named.st_ino):
                    owner = {"host": socket.gethostname(), "process": os.getpid()}
                    with suppress(OSError):  # for people, who may look; a full disk has no room
                        os.ftruncate(handle, 0)
                        os.pwrite(handle, json.dumps(owner).encode(), 0)
                    return cls(handle)
            except BlockingIOError as error:
                os.close(handle)
                raise HeldError(
                    f"session: film {film} is run by another process; try again when that has let "
                    "it go"
                ) from error
            except FileNotFoundError:
                pass  # the film was deleted meanwhile, and may be claimed anew
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def release(self) -> None:
        """Let another process have the film."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


@contextmanager
def _told(what: str, done: str) -> Iterator[None]:
    """Turn an ``OSError`` into a ``StoreError`` that names no place on the host."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"store: {what} cannot be {done}: {error.strerror}") from error
