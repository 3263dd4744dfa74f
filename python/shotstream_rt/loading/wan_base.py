"""Wan's own layout of the base model's files.

A file converted to safetensors, under its own name with that ending, is taken before the original.

Source: Wan2.1-T2V-1.3B's folder (``wan_models/`` with and without the model's own folder, and
everything flat, all occur in the wild).
"""

from __future__ import annotations

from pathlib import Path

from .found_files import FoundFiles, first_file, is_tokenizer_folder, shown_places

FOLDER = "Wan2.1-T2V-1.3B"
VAE_FILE = "Wan2.1_VAE.pth"
TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER_FOLDER = "google/umt5-xxl"
CONFIG_FILE = "config.json"

PLACES = (FOLDER, f"wan_models/{FOLDER}", "wan_models", "")


def find(root: Path) -> FoundFiles:
    """Return what of Wan's files lies below ``root``."""
    folders = [root / place / TOKENIZER_FOLDER for place in PLACES]
    folders += [root / place for place in PLACES]
    return FoundFiles(
        vae=_weights(root, VAE_FILE),
        text_encoder=_weights(root, TEXT_FILE),
        tokenizer=next((path for path in folders if is_tokenizer_folder(path)), None),
        model_config=first_file(root, PLACES, CONFIG_FILE),
    )


def _converted(name: str) -> str:
    """Return the name of a file after its conversion to safetensors."""
    return Path(name).with_suffix(".safetensors").name


def _weights(root: Path, name: str) -> Path | None:
    # What was converted comes first: the original may be one that this torch cannot open safely.
    return first_file(root, PLACES, _converted(name), name)


def _either(name: str) -> str:
    return f"{_converted(name)} or {name} (looked in {shown_places(PLACES)})"


WANTED = {
    "vae": _either(VAE_FILE),
    "text_encoder": _either(TEXT_FILE),
    "tokenizer": f"{TOKENIZER_FOLDER}/tokenizer.json or spiece.model (looked in "
    f"{shown_places(PLACES)})",
}
