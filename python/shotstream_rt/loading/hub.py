"""Files of Hugging Face's hub in a folder of this machine: whole and checked, or not there.

A file is fetched into ``NAME.part``, goes on from there after an interruption, is compared with its
digest, and only then gets its name.

Talks to the server through ``huggingface_hub`` (``pip install 'shotstream_rt[hub]'``).
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from shotstream_rt import env
from shotstream_rt.errors import FetchError
from shotstream_rt.printable import listed

from .hub_library import elsewhere, hub_library, told
from .hub_listing import SHA256, HubFile, Listing, hub_folder

_SPARE_BYTES = 64 << 20
"""Disk that a fetch leaves free."""
_READ_BYTES = 4 << 20

Count = Callable[[int], object]
"""Called with the bytes that came in; a negative number takes back what has to come again."""


def fetch_files(
    wanted: Sequence[tuple[Listing, str]], tell: Callable[[str, int, int], object] | None = None
) -> list[Path]:
    """Fetch files that are not here yet.

    Args:
        wanted: repositories at a commit, and paths in them.
        tell: called with ``fetch``, the bytes that are here of all ``wanted`` and their sum; what
            it raises ends the fetch, which the next one goes on with.

    Returns:
        The files, in order.

    Raises:
        FetchError: no network, no room, another process at the same file, or a file that is not
            what the repository lists; names the file and what to do.
        ConfigError: ``huggingface_hub`` is not installed.
    """
    missing = [(at, at.files[path]) for at, path in wanted if at.here(path) is None]
    total = sum(at.files[path].size for at, path in wanted)
    done = total - sum(file.size for _, file in missing)

    def count(new: int) -> None:
        nonlocal done
        done += new
        if tell is not None:
            tell("fetch", done, total)

    count(0)
    if missing and env.hub_offline():
        names = listed([f"{at.repository}/{file.path}" for at, file in missing])
        raise FetchError(
            f"{env.HUB_OFFLINE} is set, and {len(missing)} of {len(wanted)} files are not here: "
            f"{names}; fetch them with a network"
        )
    _check_room(missing)
    for at, file in missing:
        _fetch(at, file, count)
    return [at.folder / path for at, path in wanted]


def _check_room(missing: Sequence[tuple[Listing, HubFile]]) -> None:
    """Look at the disk before the first byte."""
    if not missing:
        return
    needed = 0
    for at, file in missing:
        part = _part(at, file)
        needed += file.size - (min(part.stat().st_size, file.size) if part.is_file() else 0)
    place = hub_folder()
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE_BYTES:
        raise FetchError(
            f"{hub_folder()}: got {free / 1e9:.2f} GB of free disk, wanted "
            f"{(needed + _SPARE_BYTES) / 1e9:.2f} GB for {len(missing)} files; make room, or "
            f"{elsewhere()}"
        )


def _fetch(at: Listing, file: HubFile, count: Count) -> None:
    """Fetch one file; it gets its name when it is whole and right."""
    where = f"{at.repository}/{file.path}"
    part, place = _part(at, file), at.folder / file.path
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        stream = part.open("ab")
    except OSError as error:
        raise FetchError(f"{part}: cannot be written ({error.strerror}); {elsewhere()}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FetchError(
                f"{where}: another process is fetching it; wait for that one"
            ) from error
        if at.here(file.path) is not None:  # that process has come to its end meanwhile
            part.unlink(missing_ok=True)
            count(file.size)
            return
        _fill(at, file, stream, count, where)
        found = _digest_of(part, file)
        if found != file.digest:
            part.unlink(missing_ok=True)
            raise FetchError(
                f"{where}: got {file.size} bytes with digest {found}, wanted {file.digest}; they "
                "were deleted. Fetch again; if it stays so, the server or a proxy changes the file"
            )
        try:
            os.fsync(stream.fileno())
            part.replace(place)
        except OSError as error:
            raise FetchError(f"{place}: cannot be written ({error.strerror})") from error


def _fill(at: Listing, file: HubFile, stream: BinaryIO, count: Count, where: str) -> None:
    """Get what a part lacks."""
    have = stream.seek(0, os.SEEK_END)
    if have > file.size:
        have = stream.truncate(0)
        stream.seek(0)
    counted = _Counted(stream, count)
    counted.tell_caller(have)
    if have == file.size:
        return
    library = hub_library()
    endpoint = env.hub_endpoint()
    with told(where, lambda: counted.raised):
        download = importlib.import_module("huggingface_hub.file_download")
        url = library.hf_hub_url(at.repository, file.path, revision=at.commit, endpoint=endpoint)
        headers = importlib.import_module("huggingface_hub.utils").build_hf_headers()
        # Compressed answers cannot be gone on with, and their length is not the file's.
        headers["Accept-Encoding"] = "identity"
        download.http_get(
            url, counted, resume_size=have, headers=headers, expected_size=file.size,
            tqdm_class=_no_bar(),
        )  # fmt: skip
        stream.flush()
    size = stream.seek(0, os.SEEK_END)
    if size != file.size:
        raise FetchError(f"{where}: got {size} bytes, wanted {file.size}; fetch again")


class _Counted:
    """A file to be written that counts; what counting raises is kept apart from other errors."""

    def __init__(self, stream: BinaryIO, count: Count) -> None:
        self._stream, self._count = stream, count
        self.raised: BaseException | None = None

    def tell_caller(self, new: int) -> None:
        try:
            self._count(new)
        except BaseException as error:
            self.raised = error
            raise

    def write(self, data: bytes) -> int:
        written = self._stream.write(data)
        self._stream.flush()
        self.tell_caller(len(data))
        return written

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        before = self._stream.seek(0, os.SEEK_END)
        after = self._stream.truncate(size if size is not None else 0)
        self._stream.seek(0, os.SEEK_END)
        self.tell_caller(after - before)
        return after


def _digest_of(path: Path, file: HubFile) -> str:
    """Return a file's digest, of the kind that the repository gives."""
    if SHA256.fullmatch(file.digest):
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while data := stream.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _part(at: Listing, file: HubFile) -> Path:
    place = at.folder / file.path
    return place.with_name(f"{place.name}.part")


def _no_bar() -> Any:
    """Return a progress bar of the library's kind that shows nothing."""
    bar: Any = importlib.import_module("huggingface_hub.utils").tqdm

    class Silent(bar):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent
