"""What is computed between two convolutions of a decoder, in one pass over the frames.

    x = h + bias + residual
    rms_silu: y = silu(gamma sqrt(C) x / |x|), |x| over channels, after the frames remembered
    add_bias: y = x, or relu(x)

h, residual ``[F, H, W, C]`` dense, channels last; out is what the next convolution reads, with its
two frames of the past in front, so nothing is padded, joined or copied between the two. A program
handles some positions in all frames, so no other one reads their past, and it can replace that as
it goes. Float32 inside, one rounding at each store. Bound by memory: per position and channel it
moves 2 F numbers, 2 F more for a residual that is kept, and 6 for the past.
"""

from __future__ import annotations

from typing import Any, no_type_check

import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..tuning import block_of

TILE = 2048
"""Numbers that a program holds at a time."""

WARPS = 4


@triton.jit
@no_type_check
def _load_sum(
    H, RESIDUAL, bias, place, inside, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    x = tl.load(H + place, mask=inside, other=0.0).to(tl.float32) + bias
    if HAS_RESIDUAL:
        x += tl.load(RESIDUAL + place, mask=inside, other=0.0).to(tl.float32)
    return x


@triton.jit
@no_type_check
def _rms_silu_kernel(
    H, GAMMA, BIAS, RESIDUAL, PAST, OUT, frames, positions, frame_step, root,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, HAS_PAST: tl.constexpr, KEEP: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    inside = (position < positions)[:, None] & (column < WIDTH)
    place = position.to(tl.int64)[:, None] * WIDTH + column
    known = column < WIDTH
    gain = tl.load(GAMMA + column, mask=known, other=0.0).to(tl.float32) * root
    bias = tl.zeros([1, BLOCK], tl.float32)
    if HAS_BIAS:
        bias = tl.load(BIAS + column, mask=known, other=0.0).to(tl.float32)
    result = place
    if HAS_PAST:
        older = tl.load(PAST + place, mask=inside, other=0.0)
        newer = tl.load(PAST + frame_step + place, mask=inside, other=0.0)
        tl.store(OUT + place, older, mask=inside)
        tl.store(OUT + frame_step + place, newer, mask=inside)
        result = place + 2 * frame_step
    source = place
    for _ in range(frames):
        x = _load_sum(H, RESIDUAL, bias, source, inside, HAS_RESIDUAL)
        if KEEP:
            # What later layers read is the stored sum, so the norm sees its rounding too.
            stored = x.to(H.dtype.element_ty)
            tl.store(H + source, stored, mask=inside)
            x = stored.to(tl.float32)
        # Columns outside are zeros, so they add nothing.
        length = tl.sqrt(tl.sum(x * x, 1))[:, None]
        y = x / tl.maximum(length, 1e-12) * gain
        if SILU:
            y = y / (1.0 + tl.exp(-y))
        y = y.to(OUT.dtype.element_ty)
        tl.store(OUT + result, y, mask=inside)
        if HAS_PAST:
            older = newer
            newer = y
        source += frame_step
        result += frame_step
    if HAS_PAST:
        tl.store(PAST + place, older, mask=inside)
        tl.store(PAST + frame_step + place, newer, mask=inside)


@triton.jit
@no_type_check
def _add_bias_kernel(
    H, BIAS, RESIDUAL, OUT, positions,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    inside = (position < positions)[:, None] & (column < WIDTH)
    place = position.to(tl.int64)[:, None] * WIDTH + column
    bias = tl.zeros([1, BLOCK], tl.float32)
    if HAS_BIAS:
        bias = tl.load(BIAS + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    x = _load_sum(H, RESIDUAL, bias, place, inside, HAS_RESIDUAL)
    if RELU:
        x = tl.maximum(x, 0.0)
    tl.store(OUT + place, x.to(OUT.dtype.element_ty), mask=inside)


def rms_silu(
    h: Tensor,
    gamma: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    past: Tensor | None,
    out: Tensor,
    keep: bool,
    silu: bool,
) -> None:
    """Like ``kernels.reference.rms_silu.rms_silu``.

    Args:
        h: ``[F, H, W, C]`` dense, what a convolution gave without its bias.
        gamma: ``[C]``.
        bias: ``[C]`` of that convolution; ``None`` for none.
        residual: like ``h``; ``None`` for none.
        past: ``[2, H, W, C]``, the two frames of the result before this group; becomes its last
            two; ``None`` for none.
        out: receives the result: like ``h``, or with ``past`` two frames longer, those first.
        keep: leave ``h + bias + residual`` in ``h``.
        silu: false leaves the norm as it is.
    """
    _check_dense(h, residual, past, out)
    frames, width = h.shape[0], h.shape[-1]
    step = h[0].numel()
    shape = _launch_shape(width)
    # An absent tensor is never read; any pointer stands in for it.
    run_kernel(
        _rms_silu_kernel, (triton.cdiv(step // width, shape["ROWS"]),),
        h, gamma, h if bias is None else bias, h if residual is None else residual,
        h if past is None else past, out, frames, step // width, step, float(width) ** 0.5,
        HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, HAS_PAST=past is not None,
        KEEP=keep, SILU=silu, **shape,
    )  # fmt: skip


def add_bias(
    h: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor, relu: bool
) -> None:
    """Like ``kernels.reference.rms_silu.add_bias``.

    Args:
        h: ``[F, H, W, C]`` dense.
        bias: ``[C]``; ``None`` for none.
        residual: like ``h``; ``None`` for none.
        out: receives the result; may be ``h``.
        relu: replace negative results by zero.
    """
    _check_dense(h, residual, out)
    positions, shape = h[..., 0].numel(), _launch_shape(h.shape[-1])
    run_kernel(
        _add_bias_kernel, (triton.cdiv(positions, shape["ROWS"]),),
        h, h if bias is None else bias, h if residual is None else residual, out, positions,
        HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, RELU=relu, **shape,
    )  # fmt: skip


def _launch_shape(width: int) -> dict[str, Any]:
    """Return the compile-time constants and options of frames of ``width`` channels."""
    block = block_of(width)
    return {"WIDTH": width, "BLOCK": block, "ROWS": max(1, TILE // block), "num_warps": WARPS}


def _check_dense(*frames: Tensor | None) -> None:
    for given in frames:
        if given is not None and not given.is_contiguous():
            raise ValueError(
                f"frames: got strides {given.stride()} for shape {tuple(given.shape)}, wanted "
                "dense ones, channels last"
            )
