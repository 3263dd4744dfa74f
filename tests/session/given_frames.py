"""Frames that a shot can begin with, and who makes a shot from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shotstream_rt.media.video import VideoWriter

ENTERS_LATE = ["shotstream", "longlive", "infinity-rope", "causal-forcing-2step"]
"""One student of each kind that makes a shot from given frames."""


def clip(frames: int, seed: int = 1) -> NDArray[np.uint8]:
    """Grey blocks, one for each latent pixel; the same in the frames of one latent."""
    levels = np.random.default_rng(seed).integers(40, 216, (1 + (frames - 1 + 3) // 4, 2, 4, 1))
    blocks = levels.repeat(8, 1).repeat(8, 2).repeat(3, 3).astype(np.uint8)
    return np.concatenate((blocks[:1], blocks[1:].repeat(4, 0)))[:frames]


def write_clip(path: Path, frames: NDArray[np.uint8], rate_hz: int) -> Path:
    with VideoWriter(path, height=16, width=32, frame_rate_hz=rate_hz, crf=0) as writer:
        for pixels in frames:
            writer.write(pixels)
    return path
