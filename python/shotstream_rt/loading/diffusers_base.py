"""Diffusers' layout of the base model's files: a folder per part, large ones in several files.

Source: ``Wan2.1-T2V-1.3B-Diffusers``.
"""

from __future__ import annotations

from pathlib import Path

from ..model.checkpoint import has_network
from .found_files import FoundFiles, first_file, is_tokenizer_folder

FOLDER = "Wan2.1-T2V-1.3B-Diffusers"
PLACES = ("", FOLDER, f"wan_models/{FOLDER}")
TRANSFORMER_FOLDER = "transformer"

WANTED = {
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/ with model.safetensors or its index",
    "tokenizer": "tokenizer/",
}


def find(root: Path) -> FoundFiles:
    """Return what of a Diffusers folder lies below ``root``."""
    folders = [root / place for place in PLACES]
    return FoundFiles(
        vae=_network(folders, "vae"),
        text_encoder=_network(folders, "text_encoder"),
        tokenizer=next(
            (f / "tokenizer" for f in folders if is_tokenizer_folder(f / "tokenizer")), None
        ),
        model_config=first_file(root, PLACES, f"{TRANSFORMER_FOLDER}/config.json"),
    )


def find_transformer(root: Path) -> Path | None:
    """Return the folder of the transformer below ``root``, if there is one."""
    return _network([root / place for place in PLACES], TRANSFORMER_FOLDER)


def _network(folders: list[Path], part: str) -> Path | None:
    return next((folder / part for folder in folders if has_network(folder / part)), None)
