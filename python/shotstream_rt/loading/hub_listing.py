"""What a repository of Hugging Face's hub holds at one commit.

A repository's files are listed once per revision, with size and digest of each, and that list is
kept. From then on the revision means the commit that it meant, whatever is uploaded later, and
what is here is used without any network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from shotstream_rt import env
from shotstream_rt.errors import ConfigError, FetchError, OutputError
from shotstream_rt.inputs import is_file, parse_json, read_text
from shotstream_rt.outputs import atomic_file
from shotstream_rt.printable import printable, shown

from .hub_library import elsewhere, hub_library, told

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT = re.compile(r"[0-9a-f]{40}")
_MAX_LISTING_BYTES = 64 << 20


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
    library = hub_library()
    with told(where):
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
        raise FetchError(f"{path}: cannot be written ({error}); {elsewhere()}") from error
    return found


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
        right = isinstance(digest, str) and (SHA256.fullmatch(digest) or _GIT.fullmatch(digest))
        if not right or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise FetchError(
                f"{repository}: {printable(path, 200)}: got size {shown(size)} and digest "
                f"{shown(digest)}, wanted both; the server does not tell what the file is"
            )
        found[path] = HubFile(path=path, size=size, digest=digest)
    return Listing(repository=repository, commit=commit, files=found)


def hub_folder() -> Path:
    """Return where fetched repositories lie."""
    return env.cache_dir() / "hub"


def _folder(repository: str) -> Path:
    return hub_folder() / repository.replace("/", "--")


def _listing_file(repository: str, revision: str | None) -> Path:
    return _folder(repository) / "revisions" / f"{quote(revision or 'main', safe='')}.json"
