"""Attention over an 8-bit arena, on sm_90: ``hopper_attention`` with keys, or all, in e4m3.

    out = softmax(scale * (q8 s_q) (k8 s_k)^T) (v s_v)

``reference.dual_attention_fp8`` describes formats and scales. 4 Tq Tk N D FLOP; with keys in 8 bits
three quarters, with all half of the matrix time of bfloat16, the latter below that of the
exponentials and of the instructions around them, which then bound it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference.dual_attention_fp8 import KEY_GROUP
from .hopper_launch import FP8, QK8, launch_attention


def dual_attention_qk8(q: Tensor, k: Tensor, v: Tensor, scale: float, k_scales: Tensor) -> Tensor:
    """Like ``kernels.reference.dual_attention_fp8.dual_attention_qk8``.

    Args:
        q: bfloat16 ``[1, Tq, N, 128]``.
        k: e4m3 ``[1, Tk, N, 128]``.
        v: bfloat16 ``[1, Tk, N, 128]``.
        scale: positive.
        k_scales: as there.

    Raises:
        ValueError: a scale that is not positive, or operands that the kernel cannot read.
    """
    if k.shape != v.shape:
        raise ValueError(f"v: got shape {tuple(v.shape)}, wanted that of k, {tuple(k.shape)}")
    return launch_attention(QK8, q, k, v, k.shape[1], scale, k_scales)


def dual_attention_fp8(
    q: Tensor, k: Tensor, v: Tensor, keys: int, scale: float, k_scales: Tensor, v_scales: Tensor
) -> Tensor:
    """Like ``kernels.reference.dual_attention_fp8.dual_attention_fp8``.

    Args:
        q: bfloat16 ``[1, Tq, N, 128]``.
        k: e4m3 ``[1, rows, N, 128]``.
        v: e4m3 ``[N, 128, tokens]``, ``tokens`` a multiple of 16.
        keys: as there.
        scale: positive.
        k_scales: as there.
        v_scales: as there.

    Raises:
        ValueError: a scale that is not positive, or operands that the kernel cannot read.
    """
    return _attend(q, k, v, keys, scale, k_scales, v_scales, q.dtype)


def dual_attention_fp8_out(
    q: Tensor, k: Tensor, v: Tensor, keys: int, scale: float, k_scales: Tensor, v_shares: Tensor
) -> Tensor:
    """Like ``kernels.reference.dual_attention_fp8.dual_attention_fp8_out``.

    Args:
        q: as for ``dual_attention_fp8``, as are ``k``, ``v``, ``keys``, ``scale`` and ``k_scales``.
        v_shares: as for the reference.

    Raises:
        ValueError: as ``dual_attention_fp8``.
    """
    return _attend(q, k, v, keys, scale, k_scales, v_shares, k.dtype)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, keys: int, scale: float, k_scales: Tensor, v_scales: Tensor,
    result: torch.dtype,
) -> Tensor:  # fmt: skip
    rows = -(-keys // KEY_GROUP) * KEY_GROUP
    if k.shape[1] < rows:
        raise ValueError(f"k: got {k.shape[1]} rows, wanted {rows} at least for {keys} keys")
    heads, width = q.shape[2:]
    if tuple(v.shape[:2]) != (heads, width) or v.shape[2] < keys or v.stride(2) != 1:
        raise ValueError(
            f"v: got shape {tuple(v.shape)}, wanted ({heads}, {width}, {keys} or more) with tokens "
            f"side by side"
        )
    if v.data_ptr() % 16 or v.stride(1) % 16 or v.stride(0) != width * v.stride(1):
        raise ValueError(f"v: got strides {v.stride()}, wanted dense rows divisible by 16")
    return launch_attention(FP8, q, k[:, :rows], v, keys, scale, k_scales, v_scales, result=result)
