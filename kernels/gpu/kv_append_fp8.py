"""Write a chunk's keys and values into the planned slots of an 8-bit arena.

    K8[key_rows(t), n] = e4m3(k[t, n] / k_scale[n]),   V8[n, :, t] = e4m3(v[t, n] / v_scale[n])

Arena: keys ``[rows, N, D]`` with rows exchanged within sixteen, values ``[N, D, tokens]``; k and v
``[frames * frame_tokens, N, D]`` at any token stride. One program transposes the values of 32
tokens of one head: they are read along features and written along tokens. Bound by memory: 3 bytes
for each number of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..tuning import block_of, on_device
from .kv_append import slot_row

TOKENS = 32
"""Tokens of a program: a row of values that it writes is one sector of memory."""

_E4M3_MAX = tl.constexpr(448.0)


@triton.jit
@no_type_check
def _kv_append_fp8_kernel(
    K, V, K_SCALES, V_SCALES, ARENA_K, ARENA_V, SLOTS, frame_tokens, k_stride, v_stride,
    row_stride, feature_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(2).to(tl.int64)
    within = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    frame, feature = tl.program_id(1), tl.arange(0, BLOCK)
    source = (frame * frame_tokens + within).to(tl.int64)[:, None]
    token = slot_row(SLOTS, frame * frame_tokens, frame_tokens) + within
    row = token - token % 16 + token % 4 // 2 * 8 + token % 16 // 4 * 2 + token % 2
    column = (head * WIDTH + feature)[None, :]
    inside = (within[:, None] < frame_tokens) & (feature[None, :] < WIDTH)
    k = tl.load(K + source * k_stride + column, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(V + source * v_stride + column, mask=inside, other=0.0).to(tl.float32)
    k = tl.clamp(k / tl.load(K_SCALES + head), -_E4M3_MAX, _E4M3_MAX)
    v = tl.clamp(v / tl.load(V_SCALES + head), -_E4M3_MAX, _E4M3_MAX)
    small = ARENA_K.dtype.element_ty
    tl.store(ARENA_K + row[:, None] * row_stride + column, k.to(small), mask=inside)
    place = (head * WIDTH + feature)[:, None] * feature_stride + token[None, :]
    tl.store(ARENA_V + place, v.to(small).trans(), mask=inside.trans())


def kv_append_fp8(
    arena_k: Tensor, arena_v: Tensor, k: Tensor, v: Tensor, k_scales: Tensor, v_scales: Tensor,
    slots: Sequence[int] | Tensor, frame_tokens: int,
) -> None:  # fmt: skip
    """Like ``kernels.reference.kv_append_fp8.kv_append_fp8``.

    Args:
        arena_k: e4m3 ``[rows, N, D]``, dense, rows in the order of
            ``reference.dual_attention_fp8``.
        arena_v: e4m3 ``[N, D, tokens]``, dense.
        k: ``[frames * frame_tokens, N, D]``, at any token stride.
        v: like ``k``.
        k_scales: float32 ``[N]``.
        v_scales: float32 ``[N]``.
        slots: arena slot of each latent frame; as int32 on the device, nothing is copied from the
            host.
        frame_tokens: tokens per latent frame.

    Raises:
        ValueError: an arena that is not dense.
    """
    if not (arena_k.is_contiguous() and arena_v.is_contiguous()):
        raise ValueError(
            f"arena: got strides {arena_k.stride()} and {arena_v.stride()}, wanted dense ones"
        )
    heads, width = k.shape[-2:]
    k, v = k.reshape(-1, heads * width), v.reshape(-1, heads * width)
    frames = k.shape[0] // frame_tokens
    run_kernel(
        _kv_append_fp8_kernel, (triton.cdiv(frame_tokens, TOKENS), frames, heads),
        k, v, k_scales, v_scales, arena_k, arena_v, on_device(slots, torch.int32, k.device),
        frame_tokens, k.stride(0), v.stride(0), heads * width, arena_v.shape[2],
        WIDTH=width, BLOCK=block_of(width), TOKENS=TOKENS, num_warps=4,
    )  # fmt: skip
