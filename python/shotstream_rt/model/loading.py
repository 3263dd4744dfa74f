"""From a model's name or folder to everything a session needs.

Called by ``Session.open``, the commands and the bench. Three layouts: ``nano`` inside the package,
a folder with ``student.json``, and the folder of the released ShotStream checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shotstream_rt.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from shotstream_rt.config import StreamConfig
    from shotstream_rt.pipeline import Pipeline
    from .captions import TextEncoder
    from .codec import LatentCodec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelBundle:
    """A loaded model.

    Attributes:
        name: as asked for.
        config: all that decides the numbers.
        pipeline: the student's hot path.
        codec: frames to latents and back.
        text: captions to embeddings.
        device: where the student runs.
        info: what was resolved (model, device, backend, dtype, bytes), plain JSON values.
        release: frees what the garbage collector would not.
    """

    name: str
    config: StreamConfig
    pipeline: Pipeline
    codec: LatentCodec
    text: TextEncoder
    device: torch.device
    info: Mapping[str, Any] = field(default_factory=dict)
    release: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Free caches and device memory."""
        self.release()
