"""Layer norm with a factor and an offset per frame, and the gated residual, one program per token.

    layer_norm(x)                = LN(x) * factor + offset
    gated_residual(x, y)         = x + y * gate
    gated_residual_norm(x, y)    = z, LN(z) * factor + offset    with z = x + y * gate

x, y ``[B, T, dim]`` dense; a row of factors, offsets or gates is shared by a frame's tokens.
Float32 inside, one rounding at each store. Bound by memory: 2, 3 and 4 numbers moved per element;
a row stays in registers between its mean, its variance and its store.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..tuning import block_of, row_warps


@triton.jit
@no_type_check
def _normalise(x, inside, eps, WIDTH: tl.constexpr):
    mean = tl.sum(x, 0) / WIDTH
    centred = tl.where(inside, x - mean, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, 0) / WIDTH + eps)


@triton.jit
@no_type_check
def _place(frames, frame_tokens):
    """Batch, frame and token of this program."""
    token = tl.program_id(0)
    frame = token // frame_tokens
    return frame // frames, frame % frames, token.to(tl.int64)


@triton.jit
@no_type_check
def _modulated(x, FACTOR, OFFSET, column, inside, eps, WIDTH: tl.constexpr):
    """Normalise a row; factor and offset are its frame's."""
    factor = tl.load(FACTOR + column, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(OFFSET + column, mask=inside, other=0.0).to(tl.float32)
    return _normalise(x, inside, eps, WIDTH) * factor + offset


@triton.jit
@no_type_check
def _gated_sum(X, Y, GATE, SUM, place, column, inside, HAS_GATE: tl.constexpr):
    """Store ``x + y * gate``; return it as rounded, which is what later layers read."""
    x = tl.load(X + place, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(Y + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_GATE:
        y = y * tl.load(GATE + column, mask=inside, other=0.0).to(tl.float32)
    z = (x + y).to(SUM.dtype.element_ty)
    tl.store(SUM + place, z, mask=inside)
    return z.to(tl.float32)


@triton.jit
@no_type_check
def _layer_norm_kernel(
    X, FACTOR, OFFSET, OUT, frames, frame_tokens,
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
    tl.store(OUT + token * WIDTH + column, h.to(OUT.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _gated_residual_kernel(
    X, Y, GATE, FACTOR, OFFSET, SUM, OUT, frames, frame_tokens,
    gate_batch, gate_frame, factor_batch, factor_frame, offset_batch, offset_frame, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, HAS_GATE: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    batch, frame, token = _place(frames, frame_tokens)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    gate_row = GATE + batch * gate_batch + frame * gate_frame
    z = _gated_sum(X, Y, gate_row, SUM, token * WIDTH + column, column, inside, HAS_GATE)
    if NORM:
        h = _modulated(
            z, FACTOR + batch * factor_batch + frame * factor_frame,
            OFFSET + batch * offset_batch + frame * offset_frame, column, inside, eps, WIDTH,
        )  # fmt: skip
        tl.store(OUT + token * WIDTH + column, h.to(OUT.dtype.element_ty), mask=inside)


def layer_norm(x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> Tensor:
    """Like ``kernels.reference.adaln.layer_norm``; rounded once.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        factor: ``[B or 1, F or 1, dim]``; each row serves one frame's tokens.
        offset: like ``factor``.
        eps: added to the variance.
    """
    x, out = x.contiguous(), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    factor, offset = _row(factor), _row(offset)
    run_kernel(
        _layer_norm_kernel, (x.shape[:-1].numel(),),
        x, factor, offset, out, *_frames(x, factor, offset), *_strides(factor), *_strides(offset),
        eps, **_shape(x),
    )  # fmt: skip
    return out


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Like ``kernels.reference.adaln.gated_residual``; rounded once.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        y: like ``x``.
        gate: ``[B or 1, F or 1, dim]``; each row serves one frame's tokens.
    """
    return _residual(x, y, gate, None, None, 0.0)[0]


def gated_residual_norm(
    x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, offset: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Like ``kernels.reference.adaln.gated_residual_norm``; each result is rounded once.

    Args:
        x: ``[B, T, dim]``, tokens ordered by latent frame.
        y: like ``x``.
        gate: ``[B or 1, F or 1, dim]``, or ``None`` for one.
        factor: like ``gate``; the norm's factor.
        offset: like ``factor``; the norm's offset.
        eps: added to the variance.
    """
    return _residual(x, y, gate, factor, offset, eps)


def _residual(
    x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor | None, offset: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Launch the residual kernel; without ``factor`` both results are the sum."""
    x, y = x.contiguous(), y.contiguous()
    total = torch.empty_like(x)
    normed = total if factor is None else torch.empty_like(x)
    # An absent row is never read; any pointer will do.
    rows = [x[:1, :1] if row is None else _row(row) for row in (gate, factor, offset)]
    run_kernel(
        _gated_residual_kernel, (x.shape[:-1].numel(),),
        x, y, *rows, total, normed, *_frames(x, *rows),
        *(stride for row in rows for stride in _strides(row)), eps,
        HAS_GATE=gate is not None, NORM=factor is not None, **_shape(x),
    )  # fmt: skip
    return total, normed


def _row(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _frames(x: Tensor, *rows: Tensor) -> tuple[int, int]:
    """Frames that have rows of their own, and the tokens of each."""
    frames = max(row.shape[1] for row in rows)
    return frames, x.shape[1] // frames


def _strides(row: Tensor) -> tuple[int, int]:
    """Steps to the next batch entry and the next frame; zero where one row serves all."""
    batch, frame = (row.stride(axis) if row.shape[axis] > 1 else 0 for axis in (0, 1))
    return batch, frame


def _shape(x: Tensor) -> dict[str, Any]:
    width = x.shape[-1]
    return {"WIDTH": width, "BLOCK": block_of(width), "num_warps": row_warps(width)}
