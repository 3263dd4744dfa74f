"""What one layout has of the base model's files, and helpers that look for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """What one layout has below one folder; ``None`` for a part that is not there.

    Attributes:
        vae: file of the Wan VAE, or the folder of a sharded one.
        text_encoder: file of umT5's encoder, or its folder.
        tokenizer: folder of umT5's tokenizer, or an encoder's file that carries it.
        model_config: the transformer's ``config.json``, which need not be there.
    """

    vae: Path | None = None
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    model_config: Path | None = None


def first_file(root: Path, places: Sequence[str], *names: str) -> Path | None:
    """Return the first file that is there, or None.

    Args:
        root: folder to look in.
        places: folders below it, the preferred first; ``""`` is ``root`` itself.
        *names: of files, the preferred first, with folders in front where they have any; all of
            them are looked for in one place before the next.
    """
    candidates = (root / place / name for place in places for name in names)
    return next((path for path in candidates if path.is_file()), None)


def is_tokenizer_folder(folder: Path) -> bool:
    """Tell whether ``folder`` holds a tokenizer's files."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))


def shown_places(places: Sequence[str]) -> str:
    """Return places below a folder for a message."""
    return ", ".join(f"{place}/" if place else "the folder itself" for place in places)
