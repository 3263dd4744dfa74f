"""Turns a training checkpoint into the folder the runtime loads.

Called by ``python -m shotstream_distill ship-nano``. Writes the student and the text encoder in
bfloat16 and the manifest; the codec file is copied as it is.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.loading.manifest import StudentManifest

from .recipe import NANO_SCHEDULE


def stream_config(model: ModelConfig) -> StreamConfig:
    """Return what decides the nano model's numbers."""
    return StreamConfig(model=model, schedule=NANO_SCHEDULE)


def _replace(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file in one move: somebody may have the old one open."""
    partial = path.with_suffix(".partial")
    save_file(tensors, str(partial))
    partial.chmod(0o644)
    partial.replace(path)


def ship(
    checkpoint: Path,
    folder: Path,
    model: ModelConfig,
    codec: Path,
    lineage: dict[str, Any],
    *,
    stream: StreamConfig | None = None,
    words: int | None = None,
) -> None:
    """Write a student folder.

    Args:
        checkpoint: file of the trainer, its running average is taken.
        folder: where to; files in it are replaced.
        model: the student's shape.
        codec: ``codec.safetensors`` to ship along.
        lineage: how the weights came to be.
        stream: what decides the numbers; default: the nano recipe's for ``model``.
        words: leading words of the vocabulary that it was trained with; a session tells users that
            it does not know the others. Default: all.
    """
    data = torch.load(checkpoint, weights_only=True)
    averaged = dict(zip(data["names"], data["average"], strict=True))
    text = {
        name.removeprefix("text."): value.bfloat16().contiguous()
        for name, value in averaged.items()
        if name.startswith("text.")
    }
    text["embedding.weight"] = text["embedding.weight"][:words].contiguous()
    student = {
        name: value.bfloat16().contiguous()
        for name, value in averaged.items()
        if not name.startswith(("text.", "aux."))
    }
    folder.mkdir(parents=True, exist_ok=True)
    _replace(student, folder / "student.safetensors")
    _replace(text, folder / "text.safetensors")
    if codec.resolve() != (folder / "codec.safetensors").resolve():
        shutil.copyfile(codec, folder / "codec.safetensors")
    StudentManifest(
        stream=stream or stream_config(model),
        codec={"kind": "nano", "file": "codec.safetensors"},
        text={"kind": "nano", "file": "text.safetensors"},
        lineage={**lineage, "steps": data["step"], "train_s": round(data["elapsed_s"])},
    ).write(folder / "student.json")
