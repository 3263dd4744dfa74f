"""Tells drawn latents from a student's, through noise, four frames at a time.

Trained along with the reward stage, whose student learns from it what its pictures lack: outlines,
textures that stay where they are, a chunk's first frame that goes with the frame before. It sees
no caption; what was asked for is the reader's affair.

Source: adversarial training on noised samples (Diffusion-GAN, Wang et al. 2022), as DMD2 (Yin et
al. 2024) adds it to a few-step student.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDTH, _DEEP = 96, 144


class Discriminator(nn.Module):
    """``[N, 4, C, h, w]`` neighbouring frames at level ``[N]`` to logits ``[N, h / 2, w / 2]``."""

    def __init__(self, channels: int = 16, frames: int = 4) -> None:
        super().__init__()
        # Frames and what changes between them: flicker is small beside the picture.
        self.stem = nn.Conv2d((2 * frames - 1) * channels, _WIDTH, 3, padding=1)
        self.told = nn.Linear(2, _WIDTH)
        self.fine = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.down = nn.Conv2d(_WIDTH, _DEEP, 4, stride=2, padding=1)
        self.deep = nn.Conv2d(_DEEP, _DEEP, 3, padding=1)
        self.out = nn.Conv2d(_DEEP, 1, 3, padding=1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Judge noisy latents; logits above 0 say drawn."""
        change = x[:, 1:] - x[:, :-1]
        told = self.told(torch.stack((level, level.square()), 1))[:, :, None, None]
        cells = self.stem(torch.cat((x, 2 * change), 1).flatten(1, 2)) + told
        cells = cells + self.fine(F.silu(cells))
        cells = F.silu(self.down(F.silu(cells)))
        cells = cells + self.deep(F.silu(cells))
        out: Tensor = self.out(F.silu(cells))[:, 0]
        return out
