"""The files in which known students are released, and which student a file is.

A file's tensors do not tell: all students of the family have the same 825. Its name does where it
is one that only its authors gave; else a configuration beside it, or the caller. What none of them
tells is refused, because another student's settings would play a film that looks like one.

Source: download instructions and inference scripts of each student's repository.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shotstream_rt.errors import WeightsError
from shotstream_rt.inputs import is_folder
from shotstream_rt.plan.students import STUDENTS, find_student
from shotstream_rt.printable import listed, printable

from . import comfyui_base, wan_base
from .student_config import config_beside, told_otherwise

ENDINGS = (".safetensors", ".pt", ".pth")
"""Of a checkpoint, the preferred one first: what was converted is taken before the original."""

_WEIGHTS, _AVERAGE = "generator", "generator_ema"
_DEPTH, _MOST_ENTRIES = 3, 20_000
_BASE_FOLDERS = frozenset({
    wan_base.FOLDER, "wan_models", "google", "vae", "text_encoder", "text_encoders", "tokenizer",
    "clip", "engines", "transformer",
})  # fmt: skip
_BASE_STEMS = frozenset(
    Path(name).stem
    for name in (wan_base.VAE_FILE, wan_base.TEXT_FILE, *comfyui_base.VAE_FILES,
                 *comfyui_base.TEXT_FILES, "taew2_1.pth")
)  # fmt: skip
_ADAPTER_STEMS = frozenset({"lora", "adapter_model"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedFile:
    """One student's file as it is released.

    Attributes:
        student: whose settings it is run with.
        repository: on Hugging Face.
        path: of the file in it.
        folders: names of which one must be that of a folder above the file, because the file's own
            name is not its alone; empty: the name is enough.
        groups: of the checkpoint, the preferred one first.
        adapter: name of a LoRA file in the same folder that belongs to it.
    """

    student: str
    repository: str
    path: str
    folders: tuple[str, ...] = ()
    groups: tuple[str, ...] = (_AVERAGE, _WEIGHTS)
    adapter: str | None = None

    def nearness(self, path: Path) -> int | None:
        """Tell whether a file's name, ending apart, is this one's.

        Returns:
            How deep the nearest folder lies that says so, 0 where none needs to; ``None``: it is
            another file.
        """
        if path.suffix not in ENDINGS or path.stem != Path(self.path).stem:
            return None
        if not self.folders:
            return 0
        above = [part.lower() for part in path.absolute().parts[:-1]]
        told = [depth for depth, part in enumerate(above) if any(f in part for f in self.folders)]
        return max(told, default=None)


_CAUSAL = "zhuhz22/Causal-Forcing"
RELEASED_FILES = (
    # A file of this name that has the average alone is another trainer's, renamed.
    ReleasedFile(
        student="shotstream", repository="KlingTeam/ShotStream", path="shotstream_merged.pt",
        groups=(_WEIGHTS,),
    ),
    ReleasedFile(
        student="self-forcing", repository="gdhe17/Self-Forcing",
        path="checkpoints/self_forcing_dmd.pt",
    ),
    ReleasedFile(
        student="self-forcing", repository="gdhe17/Self-Forcing",
        path="checkpoints/self_forcing_sid.pt",
    ),
    ReleasedFile(
        student="longlive", repository="Efficient-Large-Model/LongLive-1.3B",
        path="models/longlive_base.pt", groups=(_WEIGHTS,), adapter="lora.pt",
    ),
    ReleasedFile(
        student="rolling-forcing", repository="TencentARC/RollingForcing",
        path="checkpoints/rolling_forcing_dmd.pt",
    ),
    ReleasedFile(
        student="infinity-rope", repository="SOTAMak1r/Infinite-Forcing", path="ema_model.pt",
        folders=("infinite-forcing", "infinity-rope"),
    ),
    ReleasedFile(
        student="causal-forcing", repository=_CAUSAL, path="chunkwise/causal_forcing.pt",
        folders=("chunkwise",), groups=(_WEIGHTS, _AVERAGE),
    ),
    ReleasedFile(
        student="causal-forcing-framewise", repository=_CAUSAL, path="framewise/causal_forcing.pt",
        folders=("framewise",),
    ),
    ReleasedFile(
        student="causal-forcing-2step", repository=_CAUSAL,
        path="causal-forcing++/framewise-2step.pt",
    ),
    ReleasedFile(
        student="causal-forcing-1step", repository=_CAUSAL,
        path="causal-forcing++/framewise-1step.pt",
    ),
    ReleasedFile(
        student="causal-forcing-long", repository=_CAUSAL, path="chunkwise/longvideo.pt",
        folders=("chunkwise",),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentFile:
    """A student's file, and how it is to be read.

    Attributes:
        path: the file, or the transformer's folder in Diffusers' layout.
        student: whose settings it is run with.
        told_by: how that is known, for notes.
        groups: acceptable groups of the checkpoint, the preferred one first.
        adapter: a LoRA that belongs to it.
        named: whose released file it is by its name, if it is one's.
    """

    path: Path
    student: str
    told_by: str
    groups: tuple[str, ...]
    adapter: Path | None = None
    named: str | None = None


def released_as(path: Path) -> ReleasedFile | None:
    """Return whose released file a file is by its name; the nearest folder counts.

    Args:
        path: the file, here or in a repository.
    """
    near = [(known.nearness(path), known) for known in RELEASED_FILES]
    told = [(depth, known) for depth, known in near if depth is not None]
    return max(told, key=lambda pair: pair[0])[1] if told else None


def recognise(path: Path, student: str | None) -> StudentFile:
    """Tell which student a file is.

    Args:
        path: the file, or a transformer's folder.
        student: its name as the caller says it, which goes before all else.

    Raises:
        ConfigError: no student has this name.
        WeightsError: nothing tells which student it is, its name and a configuration beside it tell
            different ones, or a LoRA that belongs to it is missing.
    """
    released = released_as(path)
    if student is not None:
        name, told_by = find_student(student).name, "the caller"
    elif released is not None:
        name, told_by = released.student, "its name"
        other = told_otherwise(path, name)
        if other is not None:
            raise WeightsError(
                f"{printable(path, 300)}: its name is that of {name}, but by {other.note} it is "
                f"{other.student}: say student=NAME (--student NAME on the command line)"
            )
    else:
        found = config_beside(path)
        if found.student is None:
            raise WeightsError(_unknown(path, found.note))
        name, told_by = found.student, found.note
    if released is None or released.student != name:
        # A file that is known keeps to its own group, whosever settings it is run with.
        usual = released or next(known for known in RELEASED_FILES if known.student == name)
        # The caller's word or a configuration is enough for a trainer's file of either group.
        groups = tuple(dict.fromkeys((*usual.groups, _WEIGHTS, _AVERAGE)))
        named = None if released is None else released.student
        return StudentFile(path=path, student=name, told_by=told_by, groups=groups, named=named)
    adapter = None
    if released.adapter is not None:
        stem = Path(released.adapter).stem
        candidates = [path.with_name(stem + ending) for ending in ENDINGS]
        adapter = next((file for file in candidates if file.is_file()), None)
        if adapter is None:
            raise WeightsError(
                f"{path.with_name(released.adapter)}: is missing, the LoRA that belongs to "
                f"{path.name}: {name} is both together"
            )
    return StudentFile(
        path=path, student=name, told_by=told_by, groups=released.groups, adapter=adapter,
        named=name,
    )  # fmt: skip


def adapter_of(student: str) -> str | None:
    """Return the name of the LoRA that is one half of a student as it is released, if any is."""
    return next((k.adapter for k in RELEASED_FILES if k.student == student and k.adapter), None)


def candidates_below(folder: Path) -> list[Path]:
    """Return the files below a folder that may be a student, one per name, endings apart.

    Files and folders of the base model are left out. Folders are entered three deep.
    """
    found: dict[Path, Path] = {}
    pending, seen = [(folder, 0)], 0
    while pending:
        place, depth = pending.pop(0)
        try:
            entries = sorted(place.iterdir())
        except OSError:
            continue
        for entry in entries:
            seen += 1
            if seen > _MOST_ENTRIES:
                return sorted(found.values())
            if is_folder(entry):
                if depth < _DEPTH and entry.name not in _BASE_FOLDERS and entry.name[0] != ".":
                    pending.append((entry, depth + 1))
            elif entry.suffix in ENDINGS and entry.stem not in _BASE_STEMS | _ADAPTER_STEMS:
                known = found.get(entry.with_suffix(""))
                if known is None or ENDINGS.index(entry.suffix) < ENDINGS.index(known.suffix):
                    found[entry.with_suffix("")] = entry
    return sorted(found.values())


def candidate_names(paths: Iterable[str]) -> list[str]:
    """Return the paths of a repository that may be a student; see ``candidates_below``."""
    pure = [PurePosixPath(path) for path in paths]
    return sorted(
        str(path)
        for path in pure
        if path.suffix in ENDINGS
        and path.stem not in _BASE_STEMS | _ADAPTER_STEMS
        and not _BASE_FOLDERS & set(path.parts)
    )


def choose_student(folder: Path, student: str | None) -> StudentFile | None:
    """Find the student's file below a folder.

    Args:
        folder: to look below.
        student: its name as the caller says it; ``None`` takes the one student that is there.

    Returns:
        The file; ``None`` where there is no file that may be one.

    Raises:
        ConfigError: no student has this name.
        WeightsError: several students, or files that nothing tells which student they are.
    """
    if student is not None:
        find_student(student)
    files = candidates_below(folder)
    known = {path: found for path in files if (found := released_as(path)) is not None}
    released = list(known)
    if student is not None:
        chosen = [p for p in released if known[p].student == student] or released or files
    else:
        told = [p for p in files if p not in known and config_beside(p).student is not None]
        chosen = released or told or files
    if not chosen:
        return None
    if len(chosen) > 1:
        names = listed([str(path.relative_to(folder)) for path in chosen])
        raise WeightsError(
            f"{folder}: got {len(chosen)} files that may be the student: {names}; give the path of "
            "the one to open" + ("" if student is not None or released else f", and {_how()}")
        )
    return recognise(chosen[0], student)


def looked_for() -> str:
    """Return the names of released students' files for a message."""
    return ", ".join(dict.fromkeys(Path(known.path).name for known in RELEASED_FILES))


def _unknown(path: Path, note: str) -> str:
    return (
        f"{printable(path, 300)}: nothing tells which student this file is ({note}). All students "
        "of this family have the same tensors, and with another one's settings it would play, but "
        f"not as it was trained: {_how()}"
    )


def _how() -> str:
    names: Sequence[str] = tuple(STUDENTS)
    return (
        f"say student=NAME (--student NAME on the command line) with one of {', '.join(names)}, or "
        "put the student's own configuration file beside it"
    )
