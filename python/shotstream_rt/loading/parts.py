"""What every layout of files gives: the parts of a model, not yet loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from shotstream_rt.config import StreamConfig
from shotstream_rt.types import DEFAULT_FRAME_RATE_HZ

from ..model.captions import TextEncoder
from ..model.codec import LatentCodec
from ..model.lazy_tensors import LazyTensors
from .progress import LoadProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a model's files are to be opened.

    Attributes:
        device: where the codec and the text encoder go.
        lora: a LoRA file or PEFT's folder to merge into the student.
        ema: take the running average of a trainer's checkpoint.
        student: whose settings a student's file is run with; ``None`` recognises the file.
        progress: told while codec and text encoder are read.
        notes: what a user should know about the files; grows while they are opened and read.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    lora: str | Path | None = None
    ema: bool = False
    student: str | None = None
    progress: LoadProgress = field(default_factory=LoadProgress)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelParts:
    """What a layout gives, before a backend is built on it.

    Attributes:
        folder: where the model's own further files are looked for: engines, pruned history.
        places: folders in which a tiny decoder may lie.
        latents: whose latents the codec reads, ``wan`` or ``nano``.
        config: all that decides the numbers.
        weights: returns the student's tensors, none of them read yet.
        source: the student's file, for messages.
        codec: loads the codec for a student of this type; the codec may compute in another one.
        text: loads the text encoder.
        frame_rate_hz: frames per second the model was trained at.
        student: name of the known student whose settings it has; ``None``: settings of its own.
    """

    folder: Path
    places: tuple[Path, ...]
    latents: str
    config: StreamConfig
    weights: Callable[[], LazyTensors]
    source: str
    codec: Callable[[torch.dtype], LatentCodec]
    text: Callable[[], TextEncoder]
    frame_rate_hz: int = DEFAULT_FRAME_RATE_HZ
    student: str | None = None
