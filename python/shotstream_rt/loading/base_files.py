"""The files that every student needs beside its own: the Wan VAE, umT5 and its tokenizer.

Each layout in which they are released is one module with ``find(root)`` and ``WANTED``. A part is
taken from the first place and layout that has it: they all hold the same weights, so people mix
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from shotstream_rt.errors import WeightsError

from . import comfyui_base, diffusers_base, wan_base
from .found_files import FoundFiles

PARTS = {
    "vae": "the Wan VAE",
    "text_encoder": "umT5's encoder",
    "tokenizer": "umT5's tokenizer",
}

_LAYOUTS = (wan_base, diffusers_base, comfyui_base)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFiles:
    """The files of one base model; see ``FoundFiles``."""

    vae: Path
    text_encoder: Path
    tokenizer: Path
    model_config: Path | None


def find_base(roots: Sequence[Path]) -> BaseFiles:
    """Find the base model's files.

    Args:
        roots: folders to look below, the most likely first.

    Raises:
        WeightsError: parts are missing; lists each with the names looked for, and the folders.
    """
    found: dict[str, Path | None] = dict.fromkeys(field.name for field in fields(FoundFiles))
    for root in roots:
        for layout in _LAYOUTS:
            have = layout.find(root)
            for part in found:
                found[part] = found[part] or getattr(have, part)
    missing = [part for part in PARTS if found[part] is None]
    if missing:
        wanted = "; ".join(
            f"{PARTS[part]}: " + ", or ".join(layout.WANTED[part] for layout in _LAYOUTS)
            for part in missing
        )
        raise WeightsError(
            f"{' and '.join(map(str, roots[:3]))}: missing {wanted}. Download Wan2.1-T2V-1.3B into "
            "this folder, or run python -m shotstream_rt fetch wan2.1-t2v-1.3b"
        )
    paths = {part: path for part, path in found.items() if path is not None}
    return BaseFiles(**{"model_config": None, **paths})  # type: ignore[arg-type]
