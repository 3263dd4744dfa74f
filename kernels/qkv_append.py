"""Norms, rotation and cache write of a fused projection in one pass over memory.

    q -> rotate(rms_norm(q))     -> out
    k -> rotate?(rms_norm(k))    -> its arena slot (unrotated where keys are rotated on read)
    v ->                         -> its arena slot

qkv ``[T, 3 * dim]`` at any row stride, out ``[T, N, D]``, arena ``[tokens, N, D]`` token-major,
table complex64 ``[T, D / 2]``. One program per token, float32 inside, one rounding at each store;
slots are read on the device. Bound by memory: 6 numbers moved per token and feature, where separate
kernels move 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .kv_append import slot_row
from .launch import run_kernel
from .qk_norm import rms_normalise
from .rope_shot import turn_pairs
from .tuning import arena_row_stride, block_of, on_device, row_warps


@triton.jit
@no_type_check
def _qkv_append_kernel(
    QKV, WEIGHT_Q, WEIGHT_K, TABLE, OUT, ARENA_K, ARENA_V, SLOTS,
    frame_tokens, qkv_stride, arena_stride, eps,
    WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, ROTATE_KEY: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    row, token = slot_row(SLOTS, token, frame_tokens), token.to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    table_row = TABLE + token * HEAD_DIM
    table = tl.load(table_row + column % HEAD_DIM, mask=inside, other=0.0)
    third = QKV + token * qkv_stride + column

    q = tl.load(third, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(WEIGHT_Q + column, mask=inside, other=0.0).to(tl.float32)
    q = turn_pairs(rms_normalise(q, weight, eps, WIDTH), table, BLOCK)
    tl.store(OUT + token * WIDTH + column, q.to(OUT.dtype.element_ty), mask=inside)

    k = tl.load(third + WIDTH, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(WEIGHT_K + column, mask=inside, other=0.0).to(tl.float32)
    k = rms_normalise(k, weight, eps, WIDTH)
    if ROTATE_KEY:
        k = turn_pairs(k, table, BLOCK)
    tl.store(ARENA_K + row * arena_stride + column, k.to(ARENA_K.dtype.element_ty), mask=inside)

    v = tl.load(third + 2 * WIDTH, mask=inside)
    tl.store(ARENA_V + row * arena_stride + column, v, mask=inside)


def qkv_append(
    qkv: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    table: Tensor,
    arena_k: Tensor,
    arena_v: Tensor,
    slots: Sequence[int] | Tensor,
    frame_tokens: int,
    eps: float,
    rotate_key: bool,
) -> Tensor:
    """Like ``kernels.reference.qkv_append.qkv_append``; ``slots`` may be int32 on the device.

    Raises:
        ValueError: the arena is not token-major.
    """
    stride = arena_row_stride(arena_k, arena_v)
    heads, head_dim = arena_k.shape[1:]
    width = heads * head_dim
    qkv = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    out = torch.empty((qkv.shape[0], heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    run_kernel(
        _qkv_append_kernel, (qkv.shape[0],),
        qkv, weight_q, weight_k, torch.view_as_real(table).contiguous(), out, arena_k, arena_v,
        on_device(slots, torch.int32, qkv.device), frame_tokens, qkv.stride(0), stride, eps,
        WIDTH=width, HEAD_DIM=head_dim, BLOCK=block_of(width), ROTATE_KEY=rotate_key,
        num_warps=row_warps(width),
    )  # fmt: skip
    return out
