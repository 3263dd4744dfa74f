"""Files of Hugging Face's hub in a folder of this machine: whole and checked, or not there.

A repository's files are listed once per revision, with size and digest of each, and that list is
kept. From then on the revision means the commit that it meant, whatever is uploaded later, and
what is here is used without any network. A file is fetched into ``NAME.part``, goes on from there
after an interruption, is compared with its digest, and only then gets its name.

Talks to the server through ``huggingface_hub`` (``pip install 'shotstream_rt[hub]'``), which is
imported when something is to be fetched.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote

from shotstream_rt import env
from shotstream_rt.errors import ConfigError, FetchError, OutputError
from shotstream_rt.inputs import is_file, parse_json, read_text
from shotstream_rt.outputs import atomic_file
from shotstream_rt.printable import listed, printable, shown

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256, _GIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_MAX_LISTING_BYTES = 64 << 20
_SPARE_BYTES = 64 << 20
"""Disk that a fetch leaves free."""
_READ_BYTES = 4 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Count = Callable[[int], object]
"""Called with the bytes that came in; a negative number takes back what has to come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a repository.

    Attributes:
        path: in the repository.
        size: in bytes.
        digest: SHA-256 of the bytes; for small files the identity that Git gives them (SHA-1).
    """

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A repository at one commit.

    Attributes:
        repository: ``organisation/name``.
        commit: 40 hexadecimal digits.
        files: by path.
    """

    repository: str
    commit: str
    files: Mapping[str, HubFile]

    @property
    def folder(self) -> Path:
        """Where its files are, or will be."""
        return _folder(self.repository) / self.commit

    def here(self, path: str) -> Path | None:
        """Return a file that is here, or ``None``."""
        place = self.folder / path
        file = self.files.get(path)
        whole = file is not None and is_file(place) and place.stat().st_size == file.size
        return place if whole else None


def check_repository(name: str, revision: str | None) -> None:
    """Check names before they become a part of paths and addresses.

    Args:
        name: ``organisation/name``.
        revision: branch, tag or commit; ``None`` for the main branch.

    Raises:
        ConfigError: one of them is no such name.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(f"repository: got {shown(name)}, wanted hf:ORGANISATION/NAME[@REVISION]")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(
            f"revision: got {shown(revision)}, wanted a branch, a tag or a commit of {name}"
        )


def known_listing(repository: str, revision: str | None = None) -> Listing | None:
    """Return what a revision was found to be when it was first asked for, without any network.

    Args:
        repository: ``organisation/name``.
        revision: ``None`` for the main branch.

    Raises:
        FetchError: what was written down then is damaged.
    """
    path = _listing_file(repository, revision)
    if not is_file(path):
        return None
    text = read_text(path, limit_bytes=_MAX_LISTING_BYTES, what="listing", error=FetchError)
    data = parse_json(text, path, FetchError)
    try:
        return _checked(repository, data["commit"], data["files"])
    except (KeyError, TypeError) as error:
        raise FetchError(f"{path}: not a listing of files; delete it and fetch again") from error


def listing(repository: str, revision: str | None = None, *, renew: bool = False) -> Listing:
    """Return a repository's files, asking the server only the first time.

    Args:
        repository: ``organisation/name``.
        revision: branch, tag or commit; ``None`` for the main branch.
        renew: ask again what the revision is now.

    Raises:
        FetchError: no network, or no such repository or revision.
        ConfigError: ``huggingface_hub`` is not installed, or not such names.
    """
    check_repository(repository, revision)
    known = None if renew else known_listing(repository, revision)
    if known is not None:
        return known
    where = f"{repository}@{revision or 'main'}"
    if env.hub_offline():
        raise FetchError(
            f"{where}: {env.HUB_OFFLINE} is set, and it was never fetched on this machine; fetch "
            "it with a network, or open a folder"
        )
    library = _library()
    with _told(where):
        api = library.HfApi(endpoint=env.hub_endpoint())
        info = api.model_info(repository, revision=revision, files_metadata=True)
        files = [
            {
                "path": file.rfilename,
                "size": file.size,
                "digest": file.lfs.sha256 if file.lfs else file.blob_id,
            }
            for file in info.siblings or ()
        ]
        commit = info.sha
    found = _checked(repository, commit, files)
    path = _listing_file(repository, revision)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as part:
            part.write_text(json.dumps({"commit": commit, "files": files}) + "\n", "utf-8")
    except (OSError, OutputError) as error:
        raise FetchError(f"{path}: cannot be written ({error}); {_elsewhere()}") from error
    return found


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
    place = _root()
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE_BYTES:
        raise FetchError(
            f"{_root()}: got {free / 1e9:.2f} GB of free disk, wanted "
            f"{(needed + _SPARE_BYTES) / 1e9:.2f} GB for {len(missing)} files; make room, or "
            f"{_elsewhere()}"
        )


def _fetch(at: Listing, file: HubFile, count: Count) -> None:
    """Fetch one file; it gets its name when it is whole and right."""
    where = f"{at.repository}/{file.path}"
    part, place = _part(at, file), at.folder / file.path
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        stream = part.open("ab")
    except OSError as error:
        raise FetchError(f"{part}: cannot be written ({error.strerror}); {_elsewhere()}") from error
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
    library = _library()
    endpoint = env.hub_endpoint()
    with _told(where, counted):
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


@contextmanager
def _told(where: str, counted: _Counted | None = None) -> Iterator[None]:
    """Turn what the library and its network raise into an error that says what to do."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FetchError) or (counted is not None and error is counted.raised):
            raise
        raise FetchError(f"{where}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    kind, text = type(error).__name__, printable(" ".join(str(error).split()), 200)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return (
            f"the disk is full ({error.strerror}); make room, or {_elsewhere()}. What is there is "
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


def _digest_of(path: Path, file: HubFile) -> str:
    """Return a file's digest, of the kind that the repository gives."""
    if _SHA256.fullmatch(file.digest):
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while data := stream.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _checked(repository: str, commit: Any, files: Any) -> Listing:
    """Return a listing whose names, sizes and digests can be relied on.

    Raises:
        FetchError: they cannot.
    """
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise FetchError(f"{repository}: got commit {shown(commit)}, wanted 40 hexadecimal digits")
    found = {}
    for entry in files:
        path, size, digest = entry["path"], entry["size"], entry["digest"]
        inside = isinstance(path, str) and path.isprintable() and 0 < len(path) <= 1024
        pure = PurePosixPath(path) if inside else PurePosixPath("/")
        if pure.is_absolute() or ".." in pure.parts or "\\" in str(path):
            raise FetchError(f"{repository}: got a file named {shown(path)}, wanted one inside it")
        right = isinstance(digest, str) and (_SHA256.fullmatch(digest) or _GIT.fullmatch(digest))
        if not right or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise FetchError(
                f"{repository}: {printable(path, 200)}: got size {shown(size)} and digest "
                f"{shown(digest)}, wanted both; the server does not tell what the file is"
            )
        found[path] = HubFile(path=path, size=size, digest=digest)
    return Listing(repository=repository, commit=commit, files=found)


def _root() -> Path:
    return env.cache_dir() / "hub"


def _folder(repository: str) -> Path:
    return _root() / repository.replace("/", "--")


def _listing_file(repository: str, revision: str | None) -> Path:
    return _folder(repository) / "revisions" / f"{quote(revision or 'main', safe='')}.json"


def _part(at: Listing, file: HubFile) -> Path:
    place = at.folder / file.path
    return place.with_name(f"{place.name}.part")


def _elsewhere() -> str:
    return f"set {env.CACHE_DIR} to a folder on another disk"


def _library() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ConfigError(
            "fetching needs the Python package 'huggingface_hub', which is not installed or cannot "
            f"be imported ({error}): pip install 'shotstream_rt[hub]'"
        ) from error


def _no_bar() -> Any:
    """Return a progress bar of the library's kind that shows nothing."""
    bar: Any = importlib.import_module("huggingface_hub.utils").tqdm

    class Silent(bar):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent
