"""Root-mean-square norm of queries and keys over the full model width (before the head split).

    rms_norm(z) = z / sqrt(mean(z^2) + eps) * weight

The quotient is formed in float32 and rounded to the input type before the weight is applied.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last axis.

    Args:
        x: ``[..., dim]``.
        weight: ``[dim]``, the type of ``x``.
        eps: added to the mean square.

    Returns:
        Like ``x``.
    """
    wide = x.float()
    quotient = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return quotient.to(x.dtype) * weight
