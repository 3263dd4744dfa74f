"""Attention over an 8-bit arena, portable: for sm_89 and later, and for the interpreter.

    out = softmax(scale * (q8 s_q) (k8 s_k)^T) (v s_v)

``reference.dual_attention_fp8`` describes formats and scales. The loop is that of
``dual_attention``; queries are rounded to e4m3, a scale per row, when they are loaded, and the
row's and the head's scale go into the factor of the logits. With 8-bit values, weights are kept
times 2^8, so that those down to 2^-17 of the largest are not lost, and the sum of 8-bit products of
each block is added in float32. 4 Tq Tk N D FLOP; bound by the matrix units and the exponentials.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..tuning import FP8_CAPABILITY, block_of, capability_of

BLOCK_Q, WARPS, STAGES = 128, 8, 2
BLOCK_K = {False: 32, True: 64}
"""Keys of an iteration, with values in bfloat16 and in e4m3: as many as registers hold."""

_NEVER = tl.constexpr(-1e30)
_E4M3_MAX = tl.constexpr(448.0)
_HEADROOM = tl.constexpr(8.0)


@triton.jit
@no_type_check
def _attention_fp8_kernel(
    Q, K, V, K_SCALES, V_SCALES, OUT, queries, keys, scale,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, v_feature,
    out_batch, out_token, out_head,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, PV8: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    inside = (row[:, None] < queries) & (feature[None, :] < WIDTH)
    q_place = Q + batch * q_batch + head * q_head + row.to(tl.int64)[:, None] * q_token
    q = tl.load(q_place + feature[None, :], mask=inside, other=0.0).to(tl.float32)
    q_scale = tl.maximum(tl.max(tl.abs(q), 1), 1e-12) / _E4M3_MAX
    q = (q / q_scale[:, None]).to(K.dtype.element_ty)
    if WIDE:
        q = q.to(tl.float32)
    row_scale = q_scale * (tl.load(K_SCALES + head) * scale)
    headroom = _HEADROOM if PV8 else 0.0

    K += batch * k_batch + head * k_head
    V += batch * v_batch + head * v_head
    place = tl.arange(0, BLOCK_K)
    peak, total = tl.full([BLOCK_Q], _NEVER, tl.float32), tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for first in tl.range(0, keys, BLOCK_K, num_stages=STAGES):
        key = first + place
        shown = key < keys
        k_row = key
        if PV8:
            k_row = key - key % 16 + key % 4 // 2 * 8 + key % 16 // 4 * 2 + key % 2
        k = tl.load(
            K + k_row.to(tl.int64)[None, :] * k_token + feature[:, None],
            mask=shown[None, :] & (feature[:, None] < WIDTH), other=0.0,
        )  # fmt: skip
        v = tl.load(
            V + key.to(tl.int64)[None, :] * v_token + feature[:, None] * v_feature,
            mask=shown[None, :] & (feature[:, None] < WIDTH), other=0.0,
        )  # fmt: skip
        if WIDE:
            k, v = k.to(tl.float32), v.to(tl.float32)
        logits = tl.where(shown[None, :], tl.dot(q, k), _NEVER)
        new_peak = tl.maximum(peak, tl.max(logits, 1) * row_scale)
        weights = tl.math.exp2(logits * row_scale[:, None] - (new_peak - headroom)[:, None])
        shrink = tl.math.exp2(peak - new_peak)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v.trans())
        peak = new_peak
    share = 1.0 / total
    if PV8:
        share *= tl.load(V_SCALES + head)
    place_out = OUT + batch * out_batch + head * out_head + row.to(tl.int64)[:, None] * out_token
    result = (acc * share[:, None]).to(OUT.dtype.element_ty)
    tl.store(place_out + feature[None, :], result, mask=inside)


def dual_attention_qk8(q: Tensor, k: Tensor, v: Tensor, scale: float, k_scales: Tensor) -> Tensor:
    """Like ``kernels.reference.dual_attention_fp8.dual_attention_qk8``; scale positive.

    Args:
        q: ``[B, Tq, N, D]``.
        k: e4m3 ``[B, Tk, N, D]``.
        v: ``[B, Tk, N, D]`` in the type of ``q``.
        scale: positive factor on the logits.
        k_scales: float32 ``[N]``.

    Raises:
        ValueError: a scale that is not positive, or a device without e4m3.
    """
    return _launch(q, k, v, k.shape[1], scale, k_scales, None)


def dual_attention_fp8(
    q: Tensor, k: Tensor, v: Tensor, keys: int, scale: float, k_scales: Tensor, v_scales: Tensor
) -> Tensor:
    """Like ``kernels.reference.dual_attention_fp8.dual_attention_fp8``; scale positive.

    Args:
        q: ``[1, Tq, N, D]``.
        k: e4m3 ``[1, rows, N, D]``, in the row order of ``reference.dual_attention_fp8``.
        v: e4m3 ``[N, D, tokens]``.
        keys: tokens to attend to.
        scale: positive factor on the logits.
        k_scales: float32 ``[N]``.
        v_scales: float32 ``[N]``.

    Raises:
        ValueError: a scale that is not positive, or a device without e4m3.
    """
    # As [1, tokens, N, D], for the launcher; nothing is moved.
    return _launch(q, k, v[None].permute(0, 3, 1, 2), keys, scale, k_scales, v_scales)


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
    values = v[None].permute(0, 3, 1, 2)
    return _launch(q, k, values, keys, scale, k_scales, v_shares, k.dtype)


def _launch(
    q: Tensor, k: Tensor, v: Tensor, keys: int, scale: float, k_scales: Tensor,
    v_scales: Tensor | None, result: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Launch; the result is of type ``result``, that of ``q`` if not given."""
    if not scale > 0:
        raise ValueError(f"scale: got {scale}, wanted a positive number")
    if q.is_cuda and capability_of(q) < FP8_CAPABILITY:
        raise ValueError(f"device: got sm_{capability_of(q)}, wanted sm_{FP8_CAPABILITY} or later")
    batch, queries, heads, width = q.shape
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    out = torch.empty(q.shape, dtype=result or q.dtype, device=q.device)
    run_kernel(
        _attention_fp8_kernel, (triton.cdiv(queries, BLOCK_Q), heads, batch),
        q, k, v, k_scales, k_scales if v_scales is None else v_scales, out, queries, keys,
        scale / math.log(2), *q.stride()[:3], *k.stride()[:3], *v.stride(), *out.stride()[:3],
        **_options(width, v_scales is not None),
    )  # fmt: skip
    return out


def _options(width: int, pv8: bool) -> dict[str, Any]:
    """Compile-time constants and warps of a launch.

    Args:
        width: features of a head.
        pv8: values are e4m3.
    """
    return {
        "WIDTH": width,
        "BLOCK_D": max(32, block_of(width)),
        "BLOCK_Q": BLOCK_Q,
        "BLOCK_K": BLOCK_K[pv8],
        "STAGES": STAGES,
        "PV8": pv8,
        # The interpreter multiplies no 8-bit matrices; float32 holds the same numbers.
        "WIDE": not isinstance(_attention_fp8_kernel, triton.runtime.JITFunction),
        "num_warps": WARPS,
        "num_stages": STAGES,
    }
