"""Steps of a pass by the native core: RMS norm, cache write with norm and rotation, attention.

Norm and cache write are one pass over memory each. Torch needs eight operations for a norm in
bfloat16 and three more for a rotation, which together took a fifth of a small student's step. All
arithmetic is float32, rounded once at the store. One thread does it, so what is large is left to
torch, which splits it over its threads; so is what the core has no form of.

Attention in bfloat16 is for CPUs whose AVX-512 multiplies bfloat16 fast: all heads in one call that
holds no lock of the interpreter. By torch's operations it takes thirty, and where two threads
compute halves of a pass each of them waits for the other one's. Logits are float32 and stay in the
cache (``runtime/include/shotstream/attention.h``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._native import (
    attend_bfloat16,
    qkv_append_bfloat16,
    qkv_append_float32,
    rms_norm_bfloat16,
)
from ..torch_ops import pass_ops

LANES = 16
"""Widths of a norm and of a head that is stored are multiples of it."""
WIDTH_STEP = 32
"""Widths of a head that attends are multiples of it."""
_MOST_NUMBERS = 1 << 20
"""Numbers up to which one thread is as fast as several that have to be woken."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``reference.qk_norm.rms_norm``; arguments as there, all of bfloat16."""
    width = x.shape[-1]
    if width % LANES or not x.is_contiguous() or x.numel() > _MOST_NUMBERS:
        return pass_ops.rms_norm(x, weight, eps)
    out, rows = torch.empty_like(x), x.numel() // width
    rms_norm_bfloat16(x.data_ptr(), weight.data_ptr(), eps, rows, width, out.data_ptr())
    return out


def qkv_append(
    qkv: Tensor, weight_q: Tensor, weight_k: Tensor, table: Tensor, arena_k: Tensor,
    arena_v: Tensor, slots: Sequence[int], frame_tokens: int, eps: float, rotate_key: bool,
) -> Tensor:  # fmt: skip
    """See ``reference.qkv_append.qkv_append``; arguments as there, heads of whole ``LANES``."""
    rows, heads, width = arena_k.shape
    fits = (
        qkv.is_contiguous() and table.is_contiguous() and qkv.numel() <= _MOST_NUMBERS
        and len(qkv) == len(table) == len(slots) * frame_tokens
        and arena_k.stride() == arena_v.stride() and arena_k.stride(2) == 1
        and qkv.dtype == arena_k.dtype == arena_v.dtype
    )  # fmt: skip
    if not fits:
        return pass_ops.qkv_append(
            qkv, weight_q, weight_k, table, arena_k, arena_v, slots, frame_tokens, eps, rotate_key
        )
    queries = qkv.new_empty(len(qkv), heads, width)
    _APPEND[qkv.dtype](
        qkv.data_ptr(), weight_q.data_ptr(), weight_k.data_ptr(), table.data_ptr(),
        queries.data_ptr(), arena_k.data_ptr(), arena_v.data_ptr(), rows, arena_k.stride(0),
        arena_k.stride(1), list(slots), frame_tokens, heads, width, eps, rotate_key,
    )  # fmt: skip
    return queries


_APPEND = {torch.float32: qkv_append_float32, torch.bfloat16: qkv_append_bfloat16}


def dual_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """See ``reference.dual_attention.dual_attention``; weights are rounded to bfloat16.

    Tensors are bfloat16, ``D`` is a multiple of ``WIDTH_STEP``. Torch's form takes a batch, or
    another bias than float32 ``[Tk]``.
    """
    _, rows, heads, width = q.shape
    plain = bias is None or (bias.dtype == torch.float32 and bias.shape == k.shape[1:2])
    dense = all(x.stride(-1) == 1 and x.dtype == torch.bfloat16 for x in (q, k, v))
    if not plain or not dense or len(q) > 1:
        return pass_ops.dual_attention(q, k, v, scale, bias)
    out, added = q.new_empty(q.shape), None if bias is None else bias.contiguous()
    attend_bfloat16(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), 0 if added is None else added.data_ptr(),
        out.data_ptr(), scale, (rows, k.shape[1], heads, width),
        q.stride()[1:3], k.stride()[1:3], v.stride()[1:3], out.stride()[1:3],
    )  # fmt: skip
    return out
