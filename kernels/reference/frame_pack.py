"""Decoder output to displayable bytes: ``floor(255 * clamp(x / 2 + 1/2, 0, 1))``.

Truncation, not rounding, as in the original.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frame_pack(pixels: Tensor) -> Tensor:
    """Pack float ``[P, 3, H, W]`` in [-1, 1] to contiguous uint8 ``[P, H, W, 3]``."""
    unit = (pixels.float() * 0.5).add_(0.5).clamp_(0, 1).mul_(255)
    return unit.permute(0, 2, 3, 1).to(torch.uint8, memory_format=torch.contiguous_format)
