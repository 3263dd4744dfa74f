"""What is computed between two convolutions of a decoder.

    x = h + bias + residual
    rms_silu: y = silu(gamma sqrt(C) x / |x|), |x| over channels, after the frames remembered
    add_bias: y = x, or relu(x)

Frames ``[F, H, W, C]`` dense, channels last. Float32 inside, one rounding at each store.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-12
"""Least length that a position is divided by."""


def rms_silu(
    h: Tensor,
    gamma: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    past: Tensor | None,
    out: Tensor,
    keep: bool,
    silu: bool,
) -> None:
    """Normalise a group of frames into the input of the next convolution.

    Args:
        h: ``[F, H, W, C]``, what a convolution gave without its bias.
        gamma: ``[C]``.
        bias: ``[C]`` of that convolution.
        residual: like ``h``.
        past: ``[2, H, W, C]``, the two frames of the result before this group; becomes its last
            two.
        out: receives the result: like ``h``, or with ``past`` two frames longer, those first.
        keep: leave ``h + bias + residual`` in ``h``; the norm then sees its rounding.
        silu: false leaves the norm as it is.
    """
    x = _sum(h, bias, residual)
    if keep:
        x = h.copy_(x).float()
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SHORTEST)
    y = x / length * (gamma.float() * gamma.shape[0] ** 0.5)
    out[len(out) - len(h) :] = F.silu(y) if silu else y
    if past is not None:
        out[:2] = past
        past.copy_(out[-2:])


def add_bias(
    h: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor, relu: bool
) -> None:
    """Add up what a convolution gave, its bias and a residual.

    Args:
        h: ``[F, H, W, C]``.
        bias: ``[C]``.
        residual: like ``h``.
        out: receives the result; may be ``h``.
        relu: replace negative results by zero.
    """
    x = _sum(h, bias, residual)
    out.copy_(x.relu() if relu else x)


def _sum(h: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    x = h.float()
    for other in (bias, residual):
        if other is not None:
            x = x + other.float()
    return x
