"""A linear layer by ``wave_product``, in whole waves of tiles on any GPU."""

from __future__ import annotations

from torch import Tensor

from .wave_product import launch_product, wave_split_of


def wave_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Like ``kernels.reference.wave_linear.wave_linear``.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``, dense.
        bias: ``[out]``.
    """
    return launch_product(x, weight, bias, wave_split_of(x, weight)[0])
