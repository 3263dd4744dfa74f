"""Attention of one chunk's queries over the valid prefix of the arena, on sm_90 in bfloat16.

    out = softmax(scale * q k^T) v

What ``dual_attention`` computes, by ``hopper_attention``: copies, products and exponentials at the
same time, and no wave that is filled only in part. q, k, v ``[1, T, N, 128]``, heads of a token
side by side. 4 Tq Tk N D FLOP; bound by the matrix units.
"""

from __future__ import annotations

from torch import Tensor

from .hopper_launch import BFLOAT16, launch_attention


def dual_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Like ``kernels.reference.dual_attention.dual_attention``, for an arena: without a bias.

    Args:
        q: bfloat16 ``[1, Tq, N, 128]``.
        k: bfloat16 ``[1, Tk, N, 128]``.
        v: like ``k``.
        scale: as there, positive.
        bias: none.

    Raises:
        ValueError: a bias, a scale that is not positive, or operands that the kernel cannot read.
    """
    if bias is not None:
        raise ValueError("bias: got a tensor, wanted None; captions take kernels.dual_attention")
    if k.shape != v.shape:
        raise ValueError(f"v: got shape {tuple(v.shape)}, wanted that of k, {tuple(k.shape)}")
    return launch_attention(BFLOAT16, q, k, v, k.shape[1], scale)
