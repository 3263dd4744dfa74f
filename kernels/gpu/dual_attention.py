"""Attention of one chunk's queries over the valid prefix of the dual cache: online softmax.

    out = softmax(scale * q k^T + key_bias) v

q, out ``[B, Tq, N, D]``; k, v ``[B, Tk, N, D]``, all at any token and head stride with dense
features. One program per (block of queries, head, batch entry) walks the keys block by block with a
running maximum and sum; only the last, partial block is masked. 4 Tq Tk N D FLOP; bound by the
matrix units, so K and V blocks are loaded ahead of their use: through tensor descriptors on chips
that have them, through pointers elsewhere. With pointers, keys after the last one whose bias is not
``-inf`` are not loaded: a short caption in a long buffer costs what a short one costs. ``scale`` is
folded with log2(e) into the exponent.

Sources: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao,
"FlashAttention-2", 2023.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..tuning import AttentionLaunch, attention_launch, block_of, capability_of

_LOG2_E = tl.constexpr(1 / math.log(2))
_NEVER = tl.constexpr(-1e30)
"""Start of the running maximum: finite, so that a block with hidden keys only gives no NaN."""
_SCAN = tl.constexpr(512)
"""Biases read at a time when the last visible key is looked for."""


@triton.jit
@no_type_check
def _block_logits(
    q, k, bias, hidden, scale,
    HAS_BIAS: tl.constexpr, MASKED: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits of one block of keys ``k [D, K]``; scaled already if there is a bias."""
    if WIDE:
        k = k.to(tl.float32)
    logits = tl.dot(q, k, input_precision=PRECISION)
    if HAS_BIAS:
        logits = logits * scale + (bias.to(tl.float32) * _LOG2_E)[None, :]
    if MASKED:
        logits = tl.where(hidden[None, :], float("-inf"), logits)
    return logits


@triton.jit
@no_type_check
def _block_weights(logits, peak, total, scale, HAS_BIAS: tl.constexpr):
    """Weights of one block, the running maximum and sum, and the factor for older sums."""
    if HAS_BIAS:
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        weights = tl.math.exp2(logits - new_peak[:, None])
    else:
        new_peak = tl.maximum(peak, tl.max(logits, 1) * scale)
        weights = tl.math.exp2(logits * scale - new_peak[:, None])
    shrink = tl.math.exp2(peak - new_peak)
    return weights, new_peak, total * shrink + tl.sum(weights, 1), shrink


@triton.jit
@no_type_check
def _add_values(weights, v, acc, WIDE: tl.constexpr, PRECISION: tl.constexpr):
    """Add one block of values ``v [K, D]``."""
    if WIDE:
        v = v.to(tl.float32)
    return tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)


@triton.jit
@no_type_check
def _attend_block(
    q, k, v, bias, hidden, peak, total, acc, scale,
    HAS_BIAS: tl.constexpr, MASKED: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Fold one block of keys ``k [D, K]``, values ``v [K, D]`` into the running softmax."""
    logits = _block_logits(q, k, bias, hidden, scale, HAS_BIAS, MASKED, WIDE, PRECISION)
    weights, peak, total, shrink = _block_weights(logits, peak, total, scale, HAS_BIAS)
    acc = _add_values(weights, v, acc * shrink[:, None], WIDE, PRECISION)
    return peak, total, acc


@triton.jit
@no_type_check
def _visible_keys(BIAS, keys):
    """Number of keys up to the last one whose bias is not ``-inf``."""
    place = tl.arange(0, _SCAN)
    visible = keys * 0
    for first in range(0, keys, _SCAN):
        bias = tl.load(BIAS + first + place, mask=first + place < keys, other=float("-inf"))
        ends = tl.where(bias > float("-inf"), first + place + 1, 0)
        visible = tl.maximum(visible, tl.max(ends, 0))
    return visible


@triton.jit(do_not_specialize=["queries", "keys"])
@no_type_check
def _attention_kernel(
    Q, K, V, BIAS, OUT, queries, keys, scale,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    out_batch, out_token, out_head, bias_batch,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, HAS_BIAS: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    BIAS += batch * bias_batch
    if HAS_BIAS:
        keys = _visible_keys(BIAS, keys)
    row = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    place = tl.arange(0, BLOCK_K)
    q_row, q_inside = row.to(tl.int64)[:, None] * q_token, row[:, None] < queries
    k_place = K + batch * k_batch + head * k_head + place[None, :] * k_token + feature[:, None]
    v_place = V + batch * v_batch + head * v_head + place[:, None] * v_token + feature[None, :]
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

    whole = keys // BLOCK_K
    for index in tl.range(0, whole, num_stages=STAGES):
        if BLOCK_D == WIDTH:
            k, v = tl.load(k_place), tl.load(v_place)
        else:
            k = tl.load(k_place, mask=feature[:, None] < WIDTH, other=0.0)
            v = tl.load(v_place, mask=feature[None, :] < WIDTH, other=0.0)
        if HAS_BIAS:
            bias = tl.load(BIAS + index * BLOCK_K + place)
        peak, total, acc = _attend_block(
            q, k, v, bias, place < 0, peak, total, acc, scale, HAS_BIAS, False, WIDE, PRECISION
        )
        k_place += BLOCK_K * k_token
        v_place += BLOCK_K * v_token
    if whole * BLOCK_K < keys:
        # Slots after the prefix may hold anything, NaN included: they are not loaded at all.
        shown = place < keys - whole * BLOCK_K
        k_inside, v_inside = shown[None, :], shown[:, None]
        if BLOCK_D != WIDTH:
            k_inside = k_inside & (feature[:, None] < WIDTH)
            v_inside = v_inside & (feature[None, :] < WIDTH)
        k = tl.load(k_place, mask=k_inside, other=0.0)
        v = tl.load(v_place, mask=v_inside, other=0.0)
        if HAS_BIAS:
            bias = tl.load(BIAS + whole * BLOCK_K + place, mask=shown, other=0.0)
        peak, total, acc = _attend_block(
            q, k, v, bias, ~shown, peak, total, acc, scale, HAS_BIAS, True, WIDE, PRECISION
        )
    out_row = row.to(tl.int64)[:, None] * out_token
    tl.store(
        OUT + batch * out_batch + head * out_head + out_row + feature[None, :],
        (acc / total[:, None]).to(OUT.dtype.element_ty),
        mask=q_inside,
    )


@triton.jit(do_not_specialize=["queries", "keys"])
@no_type_check
def _attention_tma_kernel(
    Q_BLOCKS, K_BLOCKS, V_BLOCKS, BIAS, OUT, queries, keys, scale, out_token, out_head,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, HAS_BIAS: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The same with q, k, v as ``[tokens, N * D]`` descriptors, which give zeros past their end.

    A block's weights are multiplied with its values one iteration later. The exponentials of that
    iteration do not need the product, so on sm_90 they run while the matrix unit works on it. The
    last block comes first, so that the only masked one stays outside of the loop.
    """
    head, first = tl.program_id(1), tl.program_id(0) * BLOCK_Q
    column = head * BLOCK_D
    place = tl.arange(0, BLOCK_K)
    q = Q_BLOCKS.load([first, column])
    if WIDE:
        q = q.to(tl.float32)
    peak, total = tl.full([BLOCK_Q], _NEVER, tl.float32), tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    bias = tl.zeros([BLOCK_K], tl.float32)

    blocks = tl.cdiv(keys, BLOCK_K)
    token = (blocks - 1) * BLOCK_K
    shown = place < keys - token
    if HAS_BIAS:
        bias = tl.load(BIAS + token + place, mask=shown, other=0.0)
    k = K_BLOCKS.load([token, column])
    logits = _block_logits(q, k.T, bias, ~shown, scale, HAS_BIAS, True, WIDE, PRECISION)
    new, peak, total, shrink = _block_weights(logits, peak, total, scale, HAS_BIAS)
    weights = new if WIDE else new.to(k.dtype)
    for index in tl.range(1, blocks, num_stages=STAGES):
        token = (blocks - 1 - index) * BLOCK_K
        k, v = K_BLOCKS.load([token, column]), V_BLOCKS.load([token + BLOCK_K, column])
        if HAS_BIAS:
            bias = tl.load(BIAS + token + place)
        logits = _block_logits(q, k.T, bias, place < 0, scale, HAS_BIAS, False, WIDE, PRECISION)
        acc = _add_values(weights, v, acc, WIDE, PRECISION)
        new, peak, total, shrink = _block_weights(logits, peak, total, scale, HAS_BIAS)
        weights = new if WIDE else new.to(k.dtype)
        acc = acc * shrink[:, None]
    acc = _add_values(weights, V_BLOCKS.load([0, column]), acc, WIDE, PRECISION)
    row, feature = first + tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_D)
    out_row = row.to(tl.int64)[:, None] * out_token
    tl.store(
        OUT + head * out_head + out_row + feature[None, :],
        (acc / total[:, None]).to(OUT.dtype.element_ty),
        mask=row[:, None] < queries,
    )


def dual_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Like ``kernels.reference.dual_attention.dual_attention``, with a bias that only keys have.

    Args:
        q: ``[B, Tq, N, D]``.
        k: ``[B, Tk, N, D]``, the valid prefix only.
        v: like ``k``.
        scale: positive factor on the logits.
        bias: ``[Tk]``, or ``[B, 1, 1, Tk]`` for one per batch entry; added to the logits; ``None``
            for none.

    Raises:
        ValueError: a scale that is not positive, or a bias of another shape.
    """
    if scale <= 0:
        raise ValueError(f"scale: got {scale}, wanted a positive number")
    batch, keys = k.shape[:2]
    if bias is not None and tuple(bias.shape) not in ((keys,), (batch, 1, 1, keys)):
        raise ValueError(
            f"bias: got shape {tuple(bias.shape)}, wanted ({keys},) or ({batch}, 1, 1, {keys})"
        )
    launch = attention_launch(capability_of(q), q.shape[-1], keys, q.element_size())
    return _launch(q, k, v, scale / math.log(2), bias, launch)


def _launch(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None, launch: AttentionLaunch
) -> Tensor:
    """Run one kernel; ``scale`` in units of log2."""
    batch, queries, heads, width = q.shape
    keys = k.shape[1]
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    # Without a bias any pointer stands in for it.
    biases = out if bias is None else bias.contiguous()
    bias_batch = keys if bias is not None and bias.dim() == 4 else 0
    grid = (triton.cdiv(queries, launch.block_q), heads, batch)
    options: dict[str, Any] = {
        "BLOCK_D": max(16, block_of(width)),
        "BLOCK_Q": launch.block_q,
        "BLOCK_K": launch.block_k,
        "STAGES": launch.num_stages,
        "HAS_BIAS": bias is not None,
        # The interpreter multiplies bfloat16 bit patterns; float32 holds the same numbers.
        "WIDE": not isinstance(_attention_kernel, triton.runtime.JITFunction),
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
    if launch.tma and _fits_descriptors(q, k, v):
        run_kernel(
            _attention_tma_kernel, grid,
            _descriptor(q, launch.block_q), _descriptor(k, launch.block_k),
            _descriptor(v, launch.block_k), biases, out, queries, keys, scale,
            out.stride(1), out.stride(2), **options,
        )  # fmt: skip
    else:
        run_kernel(
            _attention_kernel, grid,
            q, k, v, biases, out, queries, keys, scale, *q.stride()[:3], *k.stride()[:3],
            *v.stride()[:3], *out.stride()[:3], bias_batch, WIDTH=width, **options,
        )  # fmt: skip
    return out


def _fits_descriptors(*tensors: Tensor) -> bool:
    """Whether each is one batch entry of dense tokens at addresses the hardware accepts."""
    width = tensors[0].shape[-1]
    return (
        width >= 16
        and width == block_of(width)
        and all(
            x.shape[0] == 1
            and x.stride(2) == width
            and x.data_ptr() % 16 == 0
            and x.stride(1) * x.element_size() % 16 == 0
            for x in tensors
        )
    )


def _descriptor(x: Tensor, rows: int) -> Any:
    """Describe ``[1, T, N, D]`` as ``[T, N * D]`` in blocks of ``rows`` tokens of one head."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    tokens, heads, width = x.shape[1:]
    return TensorDescriptor(x, [tokens, heads * width], [x.stride(1), 1], [rows, width])
