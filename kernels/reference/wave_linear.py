"""A linear layer, ``y = x W^T + b``: what its fast form computes in whole waves of tiles."""

from __future__ import annotations

from torch import Tensor


def wave_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply rows; float32 inside, one rounding to the type of ``x``.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``.
        bias: ``[out]``.

    Returns:
        ``[..., out]``, dense.
    """
    return (x.float() @ weight.float().T + bias.float()).to(x.dtype)
