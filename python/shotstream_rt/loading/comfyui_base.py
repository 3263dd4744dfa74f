"""ComfyUI's layout of the base model's files: one safetensors file each, in a folder per kind.

umT5's file carries its tokenizer. Of several files the most exact one is taken.

Source: ``Wan_2.1_ComfyUI_repackaged`` (``split_files/``), ComfyUI's folder ``models/``.
"""

from __future__ import annotations

from pathlib import Path

from .found_files import FoundFiles, first_file

ROOTS = ("", "split_files", "models", "ComfyUI/models")
VAE_FILES = (
    "wan_2.1_vae.safetensors",
    "Wan2_1_VAE_fp32.safetensors",
    "Wan2_1_VAE_bf16.safetensors",
)
TEXT_FILES = (
    "umt5_xxl_fp16.safetensors", "umt5_xxl_bf16.safetensors", "umt5-xxl-enc-bf16.safetensors",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
)  # fmt: skip

WANTED = {
    "vae": f"vae/{VAE_FILES[0]}",
    "text_encoder": f"text_encoders/{TEXT_FILES[0]} or {TEXT_FILES[-1]}",
    "tokenizer": f"inside text_encoders/{TEXT_FILES[0]}",
}

_WITHOUT_TOKENIZER = ("umt5-xxl-enc-bf16.safetensors",)


def find(root: Path) -> FoundFiles:
    """Return what of ComfyUI's files lies below ``root``."""
    text = _file(root, ("text_encoders", "clip", ""), TEXT_FILES)
    return FoundFiles(
        vae=_file(root, ("vae", ""), VAE_FILES),
        text_encoder=text,
        tokenizer=None if text is None or text.name in _WITHOUT_TOKENIZER else text,
    )


def _file(root: Path, kinds: tuple[str, ...], names: tuple[str, ...]) -> Path | None:
    places = [f"{top}/{kind}".strip("/") for top in ROOTS for kind in kinds]
    found = (first_file(root, places, name) for name in names)
    return next((path for path in found if path is not None), None)
