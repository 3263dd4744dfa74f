"""Layer norm and gated residual through torch: one pass over memory each.

One row of factors, offsets and gates serves all tokens (``F = 1``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm(x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> Tensor:
    """Like ``kernels.reference.adaln.layer_norm``; rounded once."""
    width = x.shape[-1]
    return F.layer_norm(x, (width,), factor.view(width), offset.view(width), eps)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Like ``kernels.reference.adaln.gated_residual``; rounded once."""
    return torch.addcmul(x, y, gate)


def gated_residual_norm(
    x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, offset: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Like ``kernels.reference.adaln.gated_residual_norm``; each result is rounded once."""
    total = x + y if gate is None else gated_residual(x, y, gate)
    return total, layer_norm(total, factor, offset, eps)
