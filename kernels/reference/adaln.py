"""Layer norm with adaptive shift and scale, and the gated residual.

    modulated_layer_norm(x) = LN(x) * (1 + scale) + shift
    gated_residual(x, y)    = x + y * gate

LN is over the last axis with the population variance and no parameters of its own.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def modulated_layer_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Normalise and modulate.

    Args:
        x: ``[B, F, S, dim]``, tokens grouped by latent frame (``F = 1`` when one row serves all).
        shift: ``[B or 1, F or 1, 1, dim]``.
        scale: like ``shift``; used as ``1 + scale``.
        eps: added to the variance.

    Returns:
        Like ``x``.
    """
    return F.layer_norm(x, (x.shape[-1],), eps=eps) * (1 + scale) + shift


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Return ``x + y * gate``; shapes as in ``modulated_layer_norm``."""
    return x + y * gate
