"""Norms, rotation and cache write of a fused projection in one pass over memory.

    q -> rotate(rms_norm(q))     -> out
    k -> rotate?(rms_norm(k))    -> its arena slot (unrotated where keys are rotated on read)
    v ->                         -> its arena slot

``qkv_append_qk8`` stores keys as e4m3, divided by a scale per head and cut off at 448.
``qkv_append_fp8`` leaves keys beside the arena and values where they are, for ``kv_append_fp8``,
which turns values: 8 numbers moved.
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

from ..launch import run_kernel
from ..tuning import arena_row_stride, block_of, on_device, row_warps
from .kv_append import slot_row
from .kv_append_fp8 import kv_append_fp8
from .qk_norm import rms_normalise
from .rope_shot import turn_pairs

_E4M3_MAX = tl.constexpr(448.0)


@triton.jit
@no_type_check
def _qkv_append_kernel(
    QKV, WEIGHT_Q, WEIGHT_K, TABLE, OUT, ARENA_K, ARENA_V, K_SCALES, SLOTS,
    frame_tokens, qkv_stride, arena_stride, eps,
    WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, ROTATE_KEY: tl.constexpr,
    QK8: tl.constexpr, STORE_VALUES: tl.constexpr,
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
    if QK8:
        k /= tl.load(K_SCALES + column // HEAD_DIM, mask=inside, other=1.0)
        k = tl.clamp(k, -_E4M3_MAX, _E4M3_MAX)
    tl.store(ARENA_K + row * arena_stride + column, k.to(ARENA_K.dtype.element_ty), mask=inside)

    if STORE_VALUES:
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
    """Like ``kernels.reference.qkv_append.qkv_append``.

    Args:
        qkv: ``[T, 3 * dim]``, queries | keys | values of a chunk, at any row stride.
        weight_q: ``[dim]``, factors of the queries' RMS norm.
        weight_k: ``[dim]``, factors of the keys' RMS norm.
        table: complex64 ``[T, D / 2]``, see ``reference.rope_shot.rotation``.
        arena_k: ``[slots * frame_tokens, N, D]``, token-major in memory.
        arena_v: like ``arena_k``, with the same strides.
        slots: arena slot of each of the chunk's latent frames; as int32 on the device, nothing is
            copied from the host.
        frame_tokens: tokens per latent frame.
        eps: added to the mean square.
        rotate_key: store keys rotated; otherwise as normalised.
    """
    stride = arena_row_stride(arena_k, arena_v)
    return _launch(
        qkv, weight_q, weight_k, table, arena_k, arena_v, None, stride, slots, frame_tokens, eps,
        rotate_key,
    )  # fmt: skip


def qkv_append_qk8(
    qkv: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    table: Tensor,
    arena_k: Tensor,
    arena_v: Tensor,
    k_scales: Tensor,
    slots: Sequence[int] | Tensor,
    frame_tokens: int,
    eps: float,
    rotate_key: bool,
) -> Tensor:
    """Like ``kernels.reference.qkv_append.qkv_append_qk8``.

    Args:
        qkv: as for ``qkv_append``.
        weight_q: likewise.
        weight_k: likewise.
        table: likewise.
        arena_k: e4m3 ``[slots * frame_tokens, N, D]``.
        arena_v: of this shape, in the type of ``qkv``.
        k_scales: float32 ``[N]``; a head's stored keys times its scale are its keys.
        slots: as for ``qkv_append``.
        frame_tokens: likewise.
        eps: likewise.
        rotate_key: likewise.

    Raises:
        ValueError: the arena is not token-major.
    """
    stride = arena_row_stride(arena_k, arena_v)
    return _launch(
        qkv, weight_q, weight_k, table, arena_k, arena_v, k_scales, stride, slots, frame_tokens,
        eps, rotate_key,
    )  # fmt: skip


def qkv_append_fp8(
    qkv: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    table: Tensor,
    arena_k: Tensor,
    arena_v: Tensor,
    k_scales: Tensor,
    v_scales: Tensor,
    slots: Sequence[int] | Tensor,
    frame_tokens: int,
    eps: float,
    rotate_key: bool,
) -> Tensor:
    """Like ``kernels.reference.qkv_append.qkv_append_fp8``.

    Args:
        qkv: as for ``qkv_append``.
        weight_q: likewise.
        weight_k: likewise.
        table: likewise.
        arena_k: e4m3 ``[rows, N, D]``.
        arena_v: e4m3 ``[N, D, tokens]``.
        k_scales: float32 ``[N]``; a head's stored keys times its scale are its keys.
        v_scales: float32 ``[N]``, likewise for values.
        slots: as for ``qkv_append``.
        frame_tokens: likewise.
        eps: likewise.
        rotate_key: likewise.

    Raises:
        ValueError: the arena is not dense.
    """
    tokens, (heads, head_dim) = qkv.shape[0], arena_k.shape[1:]
    k = torch.empty((tokens, heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    q = _launch(
        qkv, weight_q, weight_k, table, k, None, None, heads * head_dim,
        range(tokens // frame_tokens), frame_tokens, eps, rotate_key,
    )  # fmt: skip
    v = qkv.chunk(3, -1)[2].unflatten(-1, (heads, head_dim))
    kv_append_fp8(arena_k, arena_v, k, v, k_scales, v_scales, slots, frame_tokens)
    return q


def _launch(
    qkv: Tensor, weight_q: Tensor, weight_k: Tensor, table: Tensor, keys: Tensor,
    values: Tensor | None, k_scales: Tensor | None, stride: int, slots: Sequence[int] | Tensor,
    frame_tokens: int, eps: float, rotate_key: bool,
) -> Tensor:  # fmt: skip
    """Launch; values go nowhere without ``values``, keys are rounded to e4m3 with ``k_scales``."""
    heads, head_dim = keys.shape[1:]
    width = heads * head_dim
    qkv = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    out = torch.empty((qkv.shape[0], heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    run_kernel(
        _qkv_append_kernel, (qkv.shape[0],),
        qkv, weight_q, weight_k, torch.view_as_real(table).contiguous(), out, keys,
        out if values is None else values, out if k_scales is None else k_scales,
        on_device(slots, torch.int32, qkv.device), frame_tokens, qkv.stride(0), stride, eps,
        WIDTH=width, HEAD_DIM=head_dim, BLOCK=block_of(width), ROTATE_KEY=rotate_key,
        QK8=k_scales is not None, STORE_VALUES=values is not None, num_warps=row_warps(width),
    )  # fmt: skip
    return out
