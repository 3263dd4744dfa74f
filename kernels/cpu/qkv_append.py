"""RMS norm, rotation and cache write through the native core, in one pass over memory.

Torch needs eight operations for a norm in bfloat16 and three more for a rotation, which together
took a fifth of a small student's step. All arithmetic is float32, rounded once at the store. One
thread does it, so what is large is left to torch, which splits it over its threads; so is what the
core has no form of.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._native import (
    qkv_append_bfloat16,
    qkv_append_float32,
    rms_norm_bfloat16,
)
from ..torch_ops import pass_ops

_LANES = 16
_MOST_NUMBERS = 1 << 20
"""Numbers up to which one thread is as fast as several that have to be woken."""
_NARROW = 64
"""Features of a head up to which films in float32 keep the bits that they had with torch's ops."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``reference.qk_norm.rms_norm``; arguments as there.

    ``x`` and ``weight`` are of one type.
    """
    width = x.shape[-1]
    fits = x.dtype == torch.bfloat16 and width % _LANES == 0 and x.is_contiguous()
    if not fits or x.numel() > _MOST_NUMBERS:
        return pass_ops.rms_norm(x, weight, eps)
    out = torch.empty_like(x)
    rms_norm_bfloat16(
        x.data_ptr(), weight.data_ptr(), eps, x.numel() // width, width, out.data_ptr()
    )
    return out


def qkv_append(
    qkv: Tensor, weight_q: Tensor, weight_k: Tensor, table: Tensor, arena_k: Tensor,
    arena_v: Tensor, slots: Sequence[int], frame_tokens: int, eps: float, rotate_key: bool,
) -> Tensor:  # fmt: skip
    """Like ``kernels.reference.qkv_append.qkv_append``, with its arguments."""
    rows, heads, width = arena_k.shape
    narrow_float32 = qkv.dtype == torch.float32 and width <= _NARROW
    fits = (
        qkv.dtype in _APPEND and not narrow_float32 and width % _LANES == 0
        and qkv.is_contiguous() and table.is_contiguous() and arena_k.dtype == qkv.dtype
        and len(qkv) == len(table) == len(slots) * frame_tokens
        and arena_k.stride() == arena_v.stride() and arena_k.stride(2) == 1
    )  # fmt: skip
    if not fits or qkv.numel() > _MOST_NUMBERS:
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
