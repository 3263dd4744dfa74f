"""Decoder output to displayable bytes: ``floor(255 * clamp(x / 2 + 1/2, 0, 1))``.

pixels float ``[P, 3, H, W]`` at any strides, result uint8 ``[P, H, W, 3]`` dense. A program writes
a run of output bytes, so stores are contiguous and reads of the three planes hit the first-level
cache. Bound by memory: 4 (or 2) bytes read and 1 written per element.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel

BLOCK = 4096
"""Output bytes of one program."""


@triton.jit
@no_type_check
def _frame_pack_kernel(
    PIXELS, OUT, columns, frame_bytes, frame_stride, plane_stride, row_stride, column_stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    byte = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = byte < frame_bytes
    frame = tl.program_id(1).to(tl.int64)
    pixel, plane = byte // 3, byte % 3
    row, column = pixel // columns, pixel % columns
    place = plane * plane_stride + row * row_stride + column * column_stride
    x = tl.load(PIXELS + frame * frame_stride + place, mask=inside, other=0.0).to(tl.float32)
    unit = tl.minimum(tl.maximum(x * 0.5 + 0.5, 0.0), 1.0) * 255.0
    tl.store(OUT + frame * frame_bytes + byte, unit.to(tl.int32).to(tl.uint8), mask=inside)


def frame_pack(pixels: Tensor) -> Tensor:
    """Like ``kernels.reference.frame_pack.frame_pack``."""
    frames, planes, rows, columns = pixels.shape
    out = torch.empty((frames, rows, columns, planes), dtype=torch.uint8, device=pixels.device)
    size = rows * columns * planes
    run_kernel(
        _frame_pack_kernel, (triton.cdiv(size, BLOCK), frames),
        pixels, out, columns, size, *pixels.stride(), BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
    return out
