"""From a model's name to its parts: which layout of files it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from shotstream_rt.errors import ConfigError, ShotStreamError, WeightsError
from shotstream_rt.plan.students import STUDENTS
from shotstream_rt.printable import printable, shown

from .fetch import BASE, PREFIX, fetch, fetched_bases, is_fetchable
from .parts import LoadOptions, ModelParts
from .project_layout import MANIFEST_FILE, NANO_FOLDER, is_project_folder, open_project
from .released_layout import open_released_file, open_released_folder


def open_parts(model: str | Path, options: LoadOptions) -> ModelParts:
    """Open a model's files without loading them.

    Args:
        model: ``nano``, a folder, a student's file, or a name that is fetched if it is not here.
        options: see ``LoadOptions``.

    Raises:
        ConfigError: not a name, or an option that does not go with this layout.
        WeightsError: files are missing, broken or of an unknown student.
        ManifestError: ``student.json`` is broken.
    """
    if not isinstance(model, str | Path) or not str(model):
        raise ConfigError(f"model: got {shown(model)}, wanted a name, a folder or a student's file")
    if model == "nano":
        if not is_project_folder(NANO_FOLDER):
            raise WeightsError(
                f"model nano: {NANO_FOLDER} holds no {MANIFEST_FILE}; reinstall the package"
            )
        return open_project(NANO_FOLDER, options)
    try:
        path = Path(model).expanduser()
        folder, file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, too long, a zero byte
        why = getattr(error, "strerror", None) or error
        raise WeightsError(
            f"model {shown(str(model))}: not a folder's or a file's name ({why})"
        ) from error
    try:
        return _open_found(path, options, str(model), folder=folder, file=file)
    except ShotStreamError:
        raise
    except OSError as error:  # a folder in it that this process may not look into
        raise WeightsError(
            f"model {shown(str(model))}: {printable(error.filename)} cannot be read "
            f"({error.strerror}); wanted a folder that this process may look into"
        ) from error


def _open_found(
    path: Path, options: LoadOptions, name: str, *, folder: bool, file: bool
) -> ModelParts:
    """Open what is at ``path``, a folder or a file, or fetch what has that name."""
    if folder and is_project_folder(path):
        return open_project(path, options)
    if folder:
        return open_released_folder(path, options, fetched_bases())
    if file and is_project_folder(path.parent):
        return open_project(path.parent, options)
    if file:
        return open_released_file(path, options, fetched_bases())
    if is_fetchable(name):
        return _open_fetched(name, options)
    raise WeightsError(
        f"model {shown(name)}: no such folder or file; wanted a checkpoint's path, or one of "
        f"{', '.join(('nano', *STUDENTS))}, or {PREFIX}ORGANISATION/NAME[@REVISION]"
    )


def _open_fetched(name: str, options: LoadOptions) -> ModelParts:
    """Open a model by its name; what of it is not here is fetched."""
    if name == BASE:
        raise ConfigError(f"model {name}: is what students are built on and no student itself")
    fetched = fetch(name, student=options.student, tell=options.progress.tell)
    if fetched.path.is_dir() and is_project_folder(fetched.path):
        return open_project(fetched.path, options)
    if options.student is None:
        options = dataclasses.replace(options, student=fetched.student)
    if fetched.path.is_dir():
        return open_released_folder(fetched.path, options)
    return open_released_file(fetched.path, options, fetched.roots)


def available_models() -> dict[str, str]:
    """Return the models that are here without a download: name to folder."""
    return {"nano": str(NANO_FOLDER)} if is_project_folder(NANO_FOLDER) else {}
