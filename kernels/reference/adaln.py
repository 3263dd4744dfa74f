"""Layer norm with a factor and an offset per frame, and the gated residual in front of it.

    layer_norm(x)           = LN(x) * factor + offset
    gated_residual(x, y)    = x + y * gate
    gated_residual_norm     = both of z = x + y * gate and LN(z) * factor + offset

LN is over the last axis with the population variance and no parameters of its own. Factor and
offset are a modulation's ``1 + scale`` and shift, or a norm's weight and bias.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def layer_norm(x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> Tensor:
    """Normalise, scale and shift.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        factor: ``[B or 1, F or 1, dim]``; ``F`` divides ``T``, each row serves one frame's tokens.
        offset: like ``factor``.
        eps: added to the variance.

    Returns:
        Like ``x``.
    """
    frames = max(factor.shape[1], offset.shape[1])
    normed = F.layer_norm(x, (x.shape[-1],), eps=eps).unflatten(1, (frames, -1))
    modulated: Tensor = normed * factor.unsqueeze(2) + offset.unsqueeze(2)
    return modulated.flatten(1, 2)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Return ``x + y * gate``.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        y: like ``x``.
        gate: ``[B or 1, F or 1, dim]``; each row serves one frame's tokens.
    """
    branch: Tensor = y.unflatten(1, (gate.shape[1], -1)) * gate.unsqueeze(2)
    return x + branch.flatten(1, 2)


def gated_residual_norm(
    x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, offset: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add a branch and normalise the sum for the next one.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        y: like ``x``.
        gate: ``[B or 1, F or 1, dim]``, or ``None`` for one.
        factor: as in ``layer_norm``.
        offset: as in ``layer_norm``.
        eps: added to the variance.

    Returns:
        ``z = x + y * gate`` and ``LN(z) * factor + offset``.
    """
    total = x + y if gate is None else gated_residual(x, y, gate)
    return total, layer_norm(total, factor, offset, eps)
