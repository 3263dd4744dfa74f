"""The project's own layout: a folder with ``student.json``, as ``nano`` inside the package is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.printable import shown

from ..kernels.cpu.instructions import has_fast_bfloat16
from ..model.captions import TextEncoder
from ..model.codec import LatentCodec
from .fit import check_channels
from .manifest import StudentManifest
from .parts import LoadOptions, ModelParts
from .student_weights import open_student

MANIFEST_FILE = "student.json"
STUDENT_FILE = "student.safetensors"
NANO_FOLDER = Path(__file__).parent.parent / "nano"


def is_project_folder(folder: Path) -> bool:
    """Tell whether ``folder`` has a ``student.json``."""
    return (folder / MANIFEST_FILE).is_file()


def open_project(folder: Path, options: LoadOptions) -> ModelParts:
    """Open a folder that has a ``student.json``.

    Args:
        folder: the folder.
        options: see ``LoadOptions``; a student must not be named, the manifest has the settings.

    Raises:
        ManifestError: the manifest is broken or of another version.
        WeightsError: the student does not fit the codec's latents.
        ConfigError: a student was named.
    """
    if options.student is not None:
        raise ConfigError(
            f"student: got {shown(options.student)} for {folder}, wanted none: {MANIFEST_FILE} in "
            "this folder says how its student is run"
        )
    manifest = StudentManifest.read(folder / MANIFEST_FILE)
    path, lora, ema = folder / STUDENT_FILE, options.lora, options.ema
    check_channels(manifest.stream.model, str(folder / MANIFEST_FILE))
    return ModelParts(
        folder=folder,
        places=(folder,),
        latents=str(manifest.codec.get("kind")),
        config=manifest.stream,
        weights=lambda: open_student(path, manifest.stream.model, lora=lora, ema=ema).tensors,
        source=str(path),
        codec=lambda dtype: _codec(folder, manifest.codec, options, dtype),
        text=lambda: _text(folder, manifest.text, manifest.stream, options),
        frame_rate_hz=manifest.frame_rate_hz,
    )


def _codec(
    folder: Path, entry: Mapping[str, Any], options: LoadOptions, dtype: torch.dtype
) -> LatentCodec:
    kind = entry.get("kind")
    if kind == "nano":
        from ..model.nano.codec import NanoCodec

        path = _named(folder, "codec", entry, "file")
        with options.progress.file("codec", path):
            fast = options.device.type == "cpu" and has_fast_bfloat16()
            return NanoCodec.load(path, options.device, dtype if fast else torch.float32)
    if kind == "wan":
        from ..model.checkpoint import load_checkpoint
        from ..model.wan_vae.codec import WanCodec

        path = _named(folder, "codec", entry, "file")
        state = options.progress.watch("codec", load_checkpoint(path))
        return WanCodec.from_state(state, device=options.device, dtype=dtype, source=str(path))
    raise WeightsError(f"{folder / MANIFEST_FILE}: codec kind {shown(kind)}, wanted nano or wan")


def _text(
    folder: Path, entry: Mapping[str, Any], config: StreamConfig, options: LoadOptions
) -> TextEncoder:
    kind = entry.get("kind")
    if kind == "nano":
        from ..model.nano.text import NanoTextEncoder

        path = _named(folder, "text", entry, "file")
        with options.progress.file("text", path):
            return NanoTextEncoder.load(path, options.device)
    if kind == "umt5":
        from ..model.umt5.text_encoder import UMT5TextEncoder

        weights = _named(folder, "text", entry, "file", "folder")
        tokenizer = _named(folder, "text", entry, "tokenizer", "folder")
        return UMT5TextEncoder.from_files(
            weights, tokenizer, text_len=config.model.text_len, device=options.device,
            prepare=lambda state: options.progress.watch("text", state),
        )  # fmt: skip
    raise WeightsError(f"{folder / MANIFEST_FILE}: text kind {shown(kind)}, wanted nano or umt5")


def _named(folder: Path, part: str, entry: Mapping[str, Any], *keys: str) -> Path:
    """Return what a manifest names for a part, under the first of ``keys`` that is there."""
    name = next((entry[key] for key in keys if key in entry), None)
    if name is None:
        raise WeightsError(f"{folder / MANIFEST_FILE}: {part}: missing {' or '.join(keys)}")
    return folder / str(name)
