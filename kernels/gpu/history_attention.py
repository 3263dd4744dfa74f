"""Attention in which every head reads its own spans of the arena, in one launch.

    out[h] = softmax(scale * q[h] k[spans of h]^T) v[spans of h]

Layouts, online softmax and what bounds it are those of ``dual_attention``. Through pointers only
the last block of each span is masked, through descriptors every block is. The spans are a small
table on the device, one row per head. Heads with the most keys come first in the grid, so that the
short ones fill the last wave: with heads of unequal work that is what keeps the chip busy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..reference.history_attention import Spans
from ..tuning import (
    LONG_KEYS,
    AttentionLaunch,
    attention_launch,
    block_of,
    capability_of,
)
from .dual_attention import (
    _NEVER,
    _add_values,
    _attend_block,
    _block_logits,
    _block_weights,
    _descriptor,
    _fits_descriptors,
)
from .span_table import MAX_SPANS, span_table

_TABLE_ROW = tl.constexpr(1 + 2 * MAX_SPANS)


@triton.jit
@no_type_check
def _whole_blocks(TABLE, BLOCK_K: tl.constexpr):
    """Blocks without a masked key: how many, and the first of the second and of the third span."""
    first_of_1 = (tl.load(TABLE + 2) - tl.load(TABLE + 1)) // BLOCK_K
    first_of_2 = first_of_1 + (tl.load(TABLE + 4) - tl.load(TABLE + 3)) // BLOCK_K
    blocks = first_of_2 + (tl.load(TABLE + 6) - tl.load(TABLE + 5)) // BLOCK_K
    return blocks, first_of_1, first_of_2


@triton.jit
@no_type_check
def _block_start(TABLE, index, first_of_1, first_of_2, BLOCK_K: tl.constexpr):
    """First key of a block: one loop walks all spans, as nested loops are not pipelined well."""
    token = tl.load(TABLE + 1) + index * BLOCK_K
    token = tl.where(index < first_of_1, token, tl.load(TABLE + 3) + (index - first_of_1) * BLOCK_K)
    third = tl.load(TABLE + 5) + (index - first_of_2) * BLOCK_K
    return tl.where(index < first_of_2, token, third)


@triton.jit
@no_type_check
def _history_kernel(
    Q, K, V, TABLE, OUT, queries, scale,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    out_batch, out_token, out_head,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    TABLE += tl.program_id(1) * _TABLE_ROW
    head = tl.load(TABLE).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    place = tl.arange(0, BLOCK_K)
    q_row, q_inside = row.to(tl.int64)[:, None] * q_token, row[:, None] < queries
    k_start = K + batch * k_batch + head * k_head + place[None, :] * k_token + feature[:, None]
    v_start = V + batch * v_batch + head * v_head + place[:, None] * v_token + feature[None, :]
    if BLOCK_D != WIDTH:
        q_inside = q_inside & (feature[None, :] < WIDTH)
    q = tl.load(
        Q + batch * q_batch + head * q_head + q_row + feature[None, :], mask=q_inside, other=0.0
    )
    if WIDE:
        q = q.to(tl.float32)
    peak, total = tl.full([BLOCK_Q], _NEVER, tl.float32), tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    bias = tl.zeros([BLOCK_K], tl.float32)

    blocks, first_of_1, first_of_2 = _whole_blocks(TABLE, BLOCK_K)
    for index in tl.range(0, blocks, num_stages=STAGES):
        token = _block_start(TABLE, index, first_of_1, first_of_2, BLOCK_K).to(tl.int64)
        k_place, v_place = k_start + token * k_token, v_start + token * v_token
        if BLOCK_D == WIDTH:
            k, v = tl.load(k_place), tl.load(v_place)
        else:
            k = tl.load(k_place, mask=feature[:, None] < WIDTH, other=0.0)
            v = tl.load(v_place, mask=feature[None, :] < WIDTH, other=0.0)
        peak, total, acc = _attend_block(
            q, k, v, bias, place < 0, peak, total, acc, scale, False, False, WIDE, PRECISION
        )
    for span in range(3):
        begin, end = tl.load(TABLE + 1 + 2 * span), tl.load(TABLE + 2 + 2 * span)
        token = begin + (end - begin) // BLOCK_K * BLOCK_K
        if token < end:
            # What follows a span may be anything, NaN included: it is not loaded at all.
            shown = place < end - token
            k_inside, v_inside = shown[None, :], shown[:, None]
            if BLOCK_D != WIDTH:
                k_inside = k_inside & (feature[:, None] < WIDTH)
                v_inside = v_inside & (feature[None, :] < WIDTH)
            k = tl.load(k_start + token.to(tl.int64) * k_token, mask=k_inside, other=0.0)
            v = tl.load(v_start + token.to(tl.int64) * v_token, mask=v_inside, other=0.0)
            peak, total, acc = _attend_block(
                q, k, v, bias, ~shown, peak, total, acc, scale, False, True, WIDE, PRECISION
            )
    out_row = row.to(tl.int64)[:, None] * out_token
    tl.store(
        OUT + batch * out_batch + head * out_head + out_row + feature[None, :],
        (acc / total[:, None]).to(OUT.dtype.element_ty),
        mask=q_inside,
    )


@triton.jit
@no_type_check
def _history_tma_kernel(
    Q_BLOCKS, K_BLOCKS, V_BLOCKS, TABLE, OUT, queries, scale, out_token, out_head,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The same with q, k, v as ``[tokens, N * D]`` descriptors, which give zeros past their end.

    A span's last block is loaded whole: what follows it in the valid prefix is finite, and hidden.
    All blocks go through one loop, each masked: with masked blocks after the loop, ptxas let no
    two products run at the same time (C7515). Values are added one iteration later, as in
    ``dual_attention``. The position is carried from iteration to iteration: computed from the
    iteration's number, it became a branch in front of the exponentials, and then no product ran
    during them.
    """
    TABLE += tl.program_id(1) * _TABLE_ROW
    head = tl.load(TABLE)
    first, column = tl.program_id(0) * BLOCK_Q, head * BLOCK_D
    place = tl.arange(0, BLOCK_K)
    q = Q_BLOCKS.load([first, column])
    if WIDE:
        q = q.to(tl.float32)
    peak, total = tl.full([BLOCK_Q], _NEVER, tl.float32), tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    bias = tl.zeros([BLOCK_K], tl.float32)

    token, end = tl.load(TABLE + 1), tl.load(TABLE + 2)
    next_begin, next_end = tl.load(TABLE + 3), tl.load(TABLE + 4)
    last_begin, last_end = tl.load(TABLE + 5), tl.load(TABLE + 6)
    blocks = tl.cdiv(end - token, BLOCK_K) + tl.cdiv(next_end - next_begin, BLOCK_K)
    blocks += tl.cdiv(last_end - last_begin, BLOCK_K)

    k = K_BLOCKS.load([token, column])
    hidden = place >= end - token
    logits = _block_logits(q, k.T, bias, hidden, scale, False, True, WIDE, PRECISION)
    new, peak, total, shrink = _block_weights(logits, peak, total, scale, False)
    weights = new if WIDE else new.to(k.dtype)
    for _ in tl.range(1, blocks, num_stages=STAGES):
        before = token
        token += BLOCK_K
        leaves = token >= end
        token, end = tl.where(leaves, next_begin, token), tl.where(leaves, next_end, end)
        next_begin = tl.where(leaves, last_begin, next_begin)
        next_end = tl.where(leaves, last_end, next_end)
        k, v = K_BLOCKS.load([token, column]), V_BLOCKS.load([before, column])
        hidden = place >= end - token
        logits = _block_logits(q, k.T, bias, hidden, scale, False, True, WIDE, PRECISION)
        acc = _add_values(weights, v, acc, WIDE, PRECISION)
        new, peak, total, shrink = _block_weights(logits, peak, total, scale, False)
        weights = new if WIDE else new.to(k.dtype)
        acc = acc * shrink[:, None]
    acc = _add_values(weights, V_BLOCKS.load([token, column]), acc, WIDE, PRECISION)
    row, feature = first + tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_D)
    out_row = row.to(tl.int64)[:, None] * out_token
    tl.store(
        OUT + head.to(tl.int64) * out_head + out_row + feature[None, :],
        (acc / total[:, None]).to(OUT.dtype.element_ty),
        mask=row[:, None] < queries,
    )


def history_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, spans: Sequence[Spans]
) -> Tensor:
    """Like ``kernels.reference.history_attention.history_attention``.

    Args:
        q: ``[B, Tq, N, D]``.
        k: ``[B, Tk, N, D]``, the valid prefix.
        v: like ``k``.
        scale: positive factor on the logits.
        spans: per head, the half-open ranges of keys it reads; at most 3.

    Raises:
        ValueError: a scale that is not positive, not one entry per head, or a span outside of k.
    """
    if scale <= 0:
        raise ValueError(f"scale: got {scale}, wanted a positive number")
    # One launch for all fill levels: the arena counts as long even if a head reads little of it.
    keys = max(k.shape[1], LONG_KEYS)
    launch = attention_launch(capability_of(q), q.shape[-1], keys, q.element_size())
    return _launch(q, k, v, scale / math.log(2), spans, launch)


def _launch(
    q: Tensor, k: Tensor, v: Tensor, scale: float, spans: Sequence[Spans], launch: AttentionLaunch
) -> Tensor:
    """Run one kernel; ``scale`` in units of log2."""
    batch, queries, heads, width = q.shape
    rows = span_table(spans, heads, k.shape[1], q.device)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    grid = (triton.cdiv(queries, launch.block_q), heads, batch)
    options: dict[str, Any] = {
        "BLOCK_D": max(16, block_of(width)),
        "BLOCK_Q": launch.block_q,
        "BLOCK_K": launch.block_k,
        "STAGES": launch.num_stages,
        # The interpreter multiplies bfloat16 bit patterns; float32 holds the same numbers.
        "WIDE": not isinstance(_history_kernel, triton.runtime.JITFunction),
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
    if launch.tma and _fits_descriptors(q, k, v):
        run_kernel(
            _history_tma_kernel, grid,
            _descriptor(q, launch.block_q), _descriptor(k, launch.block_k),
            _descriptor(v, launch.block_k), rows, out, queries, scale,
            out.stride(1), out.stride(2), **options,
        )  # fmt: skip
    else:
        run_kernel(
            _history_kernel, grid,
            q, k, v, rows, out, queries, scale, *q.stride()[:3], *k.stride()[:3],
            *v.stride()[:3], *out.stride()[:3], WIDTH=width, **options,
        )  # fmt: skip
    return out
