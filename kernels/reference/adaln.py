"""Layer norm with adaptive shift and scale, and the gated residual.

    modulated_layer_norm(x) = LN(x) * (1 + scale) + shift
    gated_residual(x, y)    = x + y * gate
    gated_residual_norm     = both of z = x + y * gate and LN(z) * factor + offset

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


def gated_residual_norm(
    x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, offset: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add a branch and normalise the sum for the next one.

    Args:
        x: ``[B, F, S, dim]``.
        y: like ``x``.
        gate: ``[B or 1, F or 1, 1, dim]``, or ``None`` for one.
        factor: shaped like a gate; a norm's weight, or ``1 + scale``.
        offset: shaped like a gate; a norm's bias, or a shift.
        eps: added to the variance.

    Returns:
        ``z = x + y * gate`` and ``LN(z) * factor + offset``.
    """
    total = x + y if gate is None else gated_residual(x, y, gate)
    return total, F.layer_norm(total, (total.shape[-1],), eps=eps) * factor + offset
