"""Where the released files lie in a checkpoint folder.

Called by the session when a model is opened by folder. Looks at file names only; reading is
``weights.py``'s business.

Source: ShotStream's download script and Wan2.1-T2V-1.3B's folder (``wan_models/`` with and without
the model's own folder, and everything flat, all occur in the wild).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shotstream_rt.errors import WeightsError

STUDENT_FILE = "shotstream_merged.pt"
VAE_FILE = "Wan2.1_VAE.pth"
TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER_FOLDER = "google/umt5-xxl"
CONFIG_FILE = "config.json"
TINY_FILES = ("taew2_1.safetensors", "taew2_1.pth")

_STUDENT_PLACES = ("ckpts", "")
_WAN_PLACES = ("Wan2.1-T2V-1.3B", "wan_models/Wan2.1-T2V-1.3B", "wan_models", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The files of one released model.

    Attributes:
        student: checkpoint with the ``generator`` group.
        vae: the Wan VAE.
        text_encoder: umT5's encoder.
        tokenizer: folder of umT5's tokenizer.
        model_config: Wan's ``config.json``, or ``None`` where the release came without.
    """

    student: Path
    vae: Path
    text_encoder: Path
    tokenizer: Path
    model_config: Path | None


def find_release(folder: str | Path) -> Release:
    """Find the released files below ``folder``.

    Args:
        folder: holds ``ckpts/shotstream_merged.pt`` and ``Wan2.1-T2V-1.3B/`` (also under
            ``wan_models/``), or all files flat.

    Raises:
        WeightsError: the folder or some files are missing; lists each with the places looked at.
    """
    root = Path(folder)
    if not root.is_dir():
        raise WeightsError(f"{root}: not a folder, wanted one with the released checkpoints")
    found = {
        "student": _first_file(root, _STUDENT_PLACES, STUDENT_FILE),
        "vae": _first_file(root, _WAN_PLACES, VAE_FILE),
        "text_encoder": _first_file(root, _WAN_PLACES, TEXT_FILE),
        "tokenizer": _tokenizer(root),
    }
    looked_for = {
        "student": (STUDENT_FILE, _STUDENT_PLACES),
        "vae": (VAE_FILE, _WAN_PLACES),
        "text_encoder": (TEXT_FILE, _WAN_PLACES),
        "tokenizer": (f"{TOKENIZER_FOLDER}/tokenizer.json or spiece.model", _WAN_PLACES),
    }
    missing = [
        f"{name} (looked in {_places(places)})"
        for part, (name, places) in looked_for.items()
        if found[part] is None
    ]
    if missing:
        raise WeightsError(f"{root}: missing {'; '.join(missing)}. Download ShotStream's ckpts and "
                           "Wan2.1-T2V-1.3B into this folder.")  # fmt: skip
    paths = {part: path for part, path in found.items() if path is not None}
    return Release(**paths, model_config=_first_file(root, _WAN_PLACES, CONFIG_FILE))


def find_tiny_decoder(folder: str | Path) -> Path:
    """Find the tiny decoder's file below ``folder``: there, in ``ckpts/`` or in the Wan folder.

    Raises:
        WeightsError: there is none; names the files wanted and the places looked at.
    """
    root, places = Path(folder), ("", "ckpts", *_WAN_PLACES[:-1])
    found = (_first_file(root, places, name) for name in TINY_FILES)
    path = next((path for path in found if path is not None), None)
    if path is None:
        raise WeightsError(
            f"{root}: missing {' or '.join(TINY_FILES)}, the tiny decoder (looked in "
            f"{_places(places)}). Put the file from https://github.com/madebyollin/taehv into one "
            "of these folders, or use profile exact."
        )
    return path


def _first_file(root: Path, places: tuple[str, ...], name: str) -> Path | None:
    candidates = (root / place / name for place in places)
    return next((path for path in candidates if path.is_file()), None)


def _tokenizer(root: Path) -> Path | None:
    # Its own folder, or its files beside the rest.
    folders = [root / place / TOKENIZER_FOLDER for place in _WAN_PLACES]
    folders += [root / place for place in _WAN_PLACES]
    return next((path for path in folders if is_tokenizer_folder(path)), None)


def is_tokenizer_folder(folder: Path) -> bool:
    """Tell whether ``folder`` holds a tokenizer's files."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))


def _places(places: tuple[str, ...]) -> str:
    return ", ".join(f"{place}/" if place else "the folder itself" for place in places)
