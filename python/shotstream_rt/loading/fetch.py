"""Models by name from Hugging Face's hub: which files a name stands for, and where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shotstream_rt.errors import ConfigError, FetchError
from shotstream_rt.plan.students import STUDENTS
from shotstream_rt.printable import listed, shown

from . import comfyui_base, wan_base
from .hub import fetch_files
from .hub_listing import Listing, check_repository, known_listing, listing
from .project_layout import MANIFEST_FILE
from .student_files import ENDINGS, RELEASED_FILES, ReleasedFile, candidate_names, released_as

BASE = "wan2.1-t2v-1.3b"
"""Name of the base model: VAE, umT5 and its tokenizer, which all students need."""
BASE_REPOSITORY = "Wan-AI/Wan2.1-T2V-1.3B"
NAMES = (*STUDENTS, BASE)
PREFIX = "hf:"

_BASE_FILES = (
    wan_base.VAE_FILE, wan_base.TEXT_FILE, f"{wan_base.TOKENIZER_FOLDER}/tokenizer.json",
    f"{wan_base.TOKENIZER_FOLDER}/spiece.model", wan_base.CONFIG_FILE,
)  # fmt: skip
_DIFFUSERS_INDEX = "model_index.json"
_DIFFUSERS_FOLDERS = ("vae", "text_encoder", "tokenizer", "transformer")
_DIFFUSERS_ENDINGS = (".safetensors", ".json", ".model")

Tell = Callable[[str, int, int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A model's files on this machine.

    Attributes:
        path: what to open: a student's file, or a folder.
        roots: folders with the base model's files.
        student: whose settings the file is run with, if the name says so.
        nbytes: of all files.
        revisions: commit by repository.
    """

    path: Path
    roots: tuple[Path, ...]
    student: str | None
    nbytes: int
    revisions: dict[str, str]


def is_fetchable(name: str) -> bool:
    """Tell whether ``fetch`` knows what a model's name stands for."""
    return name in NAMES or name.startswith(PREFIX)


def fetch(
    name: str, *, student: str | None = None, renew: bool = False, tell: Tell | None = None
) -> Fetched:
    """Fetch a model's files, those that are not here yet.

    Args:
        name: a name of ``NAMES``, or ``hf:ORGANISATION/NAME[@REVISION]``.
        student: which student of a repository that has several, or whose settings a file of
            unknown origin is run with.
        renew: ask the server what the revision is now, instead of keeping to what it was.
        tell: see ``hub.fetch_files``.

    Raises:
        ConfigError: no such name, or ``huggingface_hub`` is not installed.
        FetchError: see ``hub_listing`` and ``hub``; also a repository without a file that may be a
            student.
    """
    if name == BASE:
        base = _base(renew)
        return _fetched(base, None, [(base, path) for path in _base_paths(base)], None, tell)
    if name in STUDENTS:
        known = next(known for known in RELEASED_FILES if known.student == name)
        at = listing(known.repository, renew=renew)
        return _student(at, _path_of(at, known), name, known.adapter, renew, tell)
    if not name.startswith(PREFIX):
        raise ConfigError(
            f"fetch: got {shown(name)}, wanted one of {', '.join(NAMES)}, or "
            f"{PREFIX}ORGANISATION/NAME[@REVISION]"
        )
    repository, at_sign, revision = name.removeprefix(PREFIX).partition("@")
    check_repository(repository, revision if at_sign else None)
    at = listing(repository, revision if at_sign else None, renew=renew)
    if MANIFEST_FILE in at.files:
        own = [path for path in at.files if "/" not in path and _is_project_file(path)]
        return _fetched(at, None, [(at, path) for path in own], None, tell)
    if _DIFFUSERS_INDEX in at.files:
        own = [path for path in at.files if _is_diffusers_file(path)]
        return _fetched(at, None, [(at, path) for path in own], student, tell)
    path, told = _choose(at, student)
    adapter = None if told is None else told.adapter
    if student is None and told is not None:
        student = told.student
    return _student(at, path, student, adapter, renew, tell)


def fetched_bases() -> tuple[Path, ...]:
    """Return the folder of the base model if it was fetched before; asks no server."""
    known = known_listing(BASE_REPOSITORY)
    if known is None or known.here(wan_base.VAE_FILE) is None:
        return ()
    return (known.folder,)


def fetched_models() -> dict[str, str | None]:
    """Return for every name where its own file is, or ``None`` if it was not fetched."""
    found: dict[str, str | None] = dict.fromkeys(NAMES)
    for known in RELEASED_FILES:
        at = known_listing(known.repository)
        path = None if at is None else _place_of(at, known)
        here = None if at is None or path is None else at.here(path)
        if here is not None and found[known.student] is None:
            found[known.student] = str(here)
    bases = fetched_bases()
    found[BASE] = str(bases[0]) if bases else None
    return found


def _student(
    at: Listing, path: str, student: str | None, adapter: str | None, renew: bool,
    tell: Tell | None,
) -> Fetched:  # fmt: skip
    """Fetch a student's file, what belongs to it, and the base model's files."""
    wanted = [(at, path)]
    if adapter is not None:
        wanted.append((at, str(PurePosixPath(path).with_name(adapter))))
    for _, needed in wanted:
        if needed not in at.files:
            raise FetchError(f"{at.repository}: got no file {needed}, wanted it beside {path}")
    own_base = [name for name in at.files if _is_base_file(name)]
    base = at if any(Path(name).name == wan_base.VAE_FILE for name in own_base) else _base(renew)
    wanted += [(base, name) for name in (own_base if base is at else _base_paths(base))]
    return _fetched(base, at.folder / path, wanted, student, tell)


def _fetched(
    root: Listing, path: Path | None, wanted: list[tuple[Listing, str]], student: str | None,
    tell: Tell | None,
) -> Fetched:  # fmt: skip
    fetch_files(wanted, tell)
    return Fetched(
        path=root.folder if path is None else path,
        roots=(root.folder,),
        student=student,
        nbytes=sum(at.files[name].size for at, name in wanted),
        revisions={at.repository: at.commit for at, _ in wanted},
    )


def _base(renew: bool) -> Listing:
    base = listing(BASE_REPOSITORY, renew=renew)
    for needed in (wan_base.VAE_FILE, wan_base.TEXT_FILE):
        if needed not in base.files:
            raise FetchError(f"{BASE_REPOSITORY}: got no file {needed}, wanted the base model's")
    return base


def _base_paths(base: Listing) -> list[str]:
    return [name for name in _BASE_FILES if name in base.files]


def _place_of(at: Listing, known: ReleasedFile) -> str | None:
    return next((path for path in at.files if released_as(at.folder / path) == known), None)


def _path_of(at: Listing, known: ReleasedFile) -> str:
    found = known.path if known.path in at.files else _place_of(at, known)
    if found is None:
        raise FetchError(
            f"{at.repository}: got no file {known.path}, wanted the student's; it has "
            f"{listed(sorted(at.files)) or 'no files'}"
        )
    return found


def _choose(at: Listing, student: str | None) -> tuple[str, ReleasedFile | None]:
    """Return the student's file of a repository, and what is known of it."""
    found = {path: released_as(at.folder / path) for path in at.files}
    told = {path: known for path, known in found.items() if known is not None}
    if student is not None:
        told = {path: known for path, known in told.items() if known.student == student} or told
    candidates = list(told) or candidate_names(at.files)
    if len(candidates) != 1:
        raise FetchError(
            f"{at.repository}: got {len(candidates)} files that may be a student "
            f"({listed(candidates) or 'none'}), wanted one; say student=NAME if they are of "
            "several students, or fetch the one you want by hand and open it by its path"
        )
    if not told and student is None:
        raise FetchError(
            f"{at.repository}: nothing tells which student {candidates[0]} is; say student=NAME "
            f"with one of {', '.join(STUDENTS)}"
        )
    return candidates[0], told.get(candidates[0])


def _is_project_file(path: str) -> bool:
    return PurePosixPath(path).suffix in (".json", ".safetensors")


def _is_diffusers_file(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return len(parts) == 2 and parts[0] in _DIFFUSERS_FOLDERS and path.endswith(_DIFFUSERS_ENDINGS)


def _is_base_file(path: str) -> bool:
    """Tell whether a file of a student's repository is one of the base model's."""
    names = {Path(name).name for name in _BASE_FILES}
    names |= {*comfyui_base.VAE_FILES, *comfyui_base.TEXT_FILES}
    return PurePosixPath(path).name in names and PurePosixPath(path).suffix in (
        *ENDINGS, ".json", ".model",
    )  # fmt: skip
