"""The errors of a few-step student's latents, applied to clean latents.

Called by the training of the codec, whose decoder is to read a student's latents.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_STAYS = 0.3
_WILD_SHARE, _WILD_GAIN = 0.03, 3.0


def rough_latents(
    latents: Tensor, level: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Add what a few-step student gets wrong: noise, part of which stays from latent to latent.

    On held-out shots the last step of the nano student (from noise level 0.5) erred by 0.40 of a
    latent's standard deviation. 2 x 2 means kept 27 % of that variance (white noise: 25 %), means
    over a chunk's three latents 52 % (33 %), hence the part that stays.

    Args:
        latents: ``[B, F, C, h, w]``, standard deviation 1.
        level: standard deviation of the noise, ``[B, 1, 1, 1, 1]``.
        generator: of the noise; default: torch's own.

    Returns:
        Latents of the same shape.
    """
    staying = torch.randn(latents[:, :1].shape, generator=generator)
    fresh = torch.randn(latents.shape, generator=generator)
    noise: Tensor = math.sqrt(_STAYS) * staying + math.sqrt(1 - _STAYS) * fresh
    return latents + level * noise


def wild_cells(latents: Tensor, level: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Let three cells of a hundred err by three times ``level``.

    A rewarded student draws bolder than drawn pictures are: in one of its thirty first latents a
    cell was so unlike any drawn one that the decoder burst there.

    Args:
        latents: ``[B, F, C, h, w]``, standard deviation 1.
        level: of the noise elsewhere, ``[B, 1, 1, 1, 1]``.
        generator: of cells and noise; default: torch's own.

    Returns:
        Latents of the same shape.
    """
    wild = torch.rand(latents[:, :, :1].shape, generator=generator) < _WILD_SHARE
    noise = torch.randn(latents.shape, generator=generator)
    out: Tensor = latents + _WILD_GAIN * level * wild * noise
    return out


def overdrive(latents: Tensor, most: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Scale latents region by region, as guidance does where a student is sure of itself.

    On such latents a decoder that has seen clean ones only bursts into coloured specks.

    Args:
        latents: ``[B, F, C, h, w]``.
        most: largest factor of each clip, at least 1, ``[B, 1, 1, 1]``; the smallest is 0.8.
        generator: of the regions; default: torch's own.

    Returns:
        Latents of the same shape; where ``most`` is 1 they are the same.
    """
    coarse = torch.rand(len(latents), 1, 3, 5, generator=generator)
    field = F.interpolate(coarse, latents.shape[-2:], mode="bilinear")
    least = torch.where(most > 1, 0.8, 1.0)
    scaled: Tensor = latents * (least + (most - least) * field)[:, None]
    return scaled
