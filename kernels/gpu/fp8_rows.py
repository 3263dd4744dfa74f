"""Rows of e4m3 numbers with one scale each, from the kernels that make the rows.

    peak = max(|row|, 1e-12);  values = e4m3(row * (448 / peak));  scale = peak / 448

x ``[..., width]`` dense, values e4m3 like x, scale float32 ``[..., 1]``; rows of gates, factors and
offsets are shared by a frame's tokens. One program per token: the row stays in registers
between its statistics, its peak and its store, so quantising costs no pass over memory of its own.
Bytes per element with bfloat16 x: 3 (quantise, GELU, norm), 7 (residual and norm). Bound by memory.

An attention's output has its own ``quantise_rows``: a program of the attention sees one head, a
row's peak is over all of them.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..reference.fp8_rows import FLOOR, LARGEST, Fp8Rows
from ..tuning import block_of
from .adaln import _frames, _gated_sum, _modulated, _place, _row, _strides

_GELU_LINEAR = tl.constexpr(-2 * math.sqrt(2 / math.pi) / math.log(2))
_GELU_CUBIC = tl.constexpr(-2 * math.sqrt(2 / math.pi) / math.log(2) * 0.044715)
_LARGEST, _FLOOR = tl.constexpr(LARGEST), tl.constexpr(FLOOR)


@triton.jit
@no_type_check
def _store_row(row, token, column, inside, VALUES, SCALES, WIDTH: tl.constexpr):
    peak = tl.maximum(tl.max(tl.where(inside, tl.abs(row), 0.0), 0), _FLOOR)
    values = (row * tl.math.div_rn(_LARGEST, peak)).to(VALUES.dtype.element_ty)
    tl.store(VALUES + token * WIDTH + column, values, mask=inside)
    tl.store(SCALES + token, tl.math.div_rn(peak, _LARGEST))


@triton.jit
@no_type_check
def _quantise_kernel(
    X, VALUES, SCALES, GELU: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x = tl.load(X + token * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        # 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)), with u = sqrt(2 / pi) (x + 0.044715 x^3). The
        # reciprocal is the square of a root, which is one instruction where a division is ten.
        root = tl.rsqrt(1.0 + tl.math.exp2(x * (x * x * _GELU_CUBIC + _GELU_LINEAR)))
        x = x * root * root
    _store_row(x, token, column, inside, VALUES, SCALES, WIDTH)


@triton.jit
@no_type_check
def _layer_norm_quantise_kernel(
    X, FACTOR, OFFSET, VALUES, SCALES, frames, frame_tokens,
    factor_batch, factor_frame, offset_batch, offset_frame, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch, frame, token = _place(frames, frame_tokens)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x = tl.load(X + token * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    h = _modulated(
        x, FACTOR + batch * factor_batch + frame * factor_frame,
        OFFSET + batch * offset_batch + frame * offset_frame, column, inside, eps, WIDTH,
    )  # fmt: skip
    _store_row(h, token, column, inside, VALUES, SCALES, WIDTH)


@triton.jit
@no_type_check
def _gated_residual_norm_quantise_kernel(
    X, Y, GATE, FACTOR, OFFSET, SUM, VALUES, SCALES, frames, frame_tokens,
    gate_batch, gate_frame, factor_batch, factor_frame, offset_batch, offset_frame, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, HAS_GATE: tl.constexpr,
):  # fmt: skip
    batch, frame, token = _place(frames, frame_tokens)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    gate_row = GATE + batch * gate_batch + frame * gate_frame
    z = _gated_sum(X, Y, gate_row, SUM, token * WIDTH + column, column, inside, HAS_GATE)
    h = _modulated(
        z, FACTOR + batch * factor_batch + frame * factor_frame,
        OFFSET + batch * offset_batch + frame * offset_frame, column, inside, eps, WIDTH,
    )  # fmt: skip
    _store_row(h, token, column, inside, VALUES, SCALES, WIDTH)


def quantise_rows(x: Tensor) -> Fp8Rows:
    """Like ``kernels.reference.fp8_rows.quantise_rows``."""
    return _quantise(x, gelu=False)


def gelu_quantise(x: Tensor) -> Fp8Rows:
    """Like ``kernels.reference.fp8_rows.gelu_quantise``."""
    return _quantise(x, gelu=True)


def layer_norm_quantise(x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> Fp8Rows:
    """Like ``kernels.reference.fp8_rows.layer_norm_quantise``.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        factor: ``[B or 1, F or 1, dim]``; each row serves one frame's tokens.
        offset: like ``factor``.
        eps: added to the variance.
    """
    x, factor, offset = x.contiguous(), _row(factor), _row(offset)
    rows = _empty_rows(x)
    run_kernel(
        _layer_norm_quantise_kernel, (x.shape[:-1].numel(),),
        x, factor, offset, *rows, *_frames(x, factor, offset), *_strides(factor),
        *_strides(offset), eps, **_row_options(x.shape[-1]),
    )  # fmt: skip
    return rows


def gated_residual_norm_quantise(
    x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, offset: Tensor, eps: float
) -> tuple[Tensor, Fp8Rows]:
    """Like ``kernels.reference.fp8_rows.gated_residual_norm_quantise``.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        y: like ``x``.
        gate: ``[B or 1, F or 1, dim]``, or ``None`` for one.
        factor: like ``gate``; the norm's factor.
        offset: like ``factor``; the norm's offset.
        eps: added to the variance.
    """
    x, y = x.contiguous(), y.contiguous()
    total, rows = torch.empty_like(x), _empty_rows(x)
    # An absent gate is never read; any pointer stands in for it.
    given = [x[:1, :1] if row is None else _row(row) for row in (gate, factor, offset)]
    run_kernel(
        _gated_residual_norm_quantise_kernel, (x.shape[:-1].numel(),),
        x, y, *given, total, *rows, *_frames(x, *given),
        *(stride for row in given for stride in _strides(row)), eps,
        HAS_GATE=gate is not None, **_row_options(x.shape[-1]),
    )  # fmt: skip
    return total, rows


def _row_options(width: int) -> dict[str, Any]:
    """Compile-time constants and warps of a program that holds one row of ``width`` numbers."""
    block = block_of(width)
    return {"WIDTH": width, "BLOCK": block, "num_warps": min(16, max(1, block // 256))}


def _quantise(x: Tensor, *, gelu: bool) -> Fp8Rows:
    x = x.contiguous()
    rows = _empty_rows(x)
    run_kernel(
        _quantise_kernel, (x.shape[:-1].numel(),), x, *rows, GELU=gelu, **_row_options(x.shape[-1])
    )  # fmt: skip
    return rows


def _empty_rows(x: Tensor) -> Fp8Rows:
    values = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    return Fp8Rows(values, torch.empty((*x.shape[:-1], 1), device=x.device))
