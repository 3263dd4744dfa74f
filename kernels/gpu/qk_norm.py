"""Root-mean-square norm of queries or keys over the full width, one program per token.

    rms_norm(z) = z / sqrt(mean(z^2) + eps) * weight

Rows ``[..., dim]`` at any row stride, so that a third of a fused projection needs no copy. Bound by
memory: each number is read and written once.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..tuning import block_of, row_warps


@triton.jit
@no_type_check
def rms_normalise(x, weight, eps, WIDTH: tl.constexpr):
    """Normalise one row by its root mean square; device code.

    Args:
        x: float32 ``[block]``, zeros from ``WIDTH`` on.
        weight: float32 ``[block]``.
        eps: added to the mean square.
        WIDTH: numbers in the row.
    """
    return x * tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps) * weight


@triton.jit
@no_type_check
def _rms_norm_kernel(X, WEIGHT, OUT, row_stride, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x = tl.load(X + row * row_stride + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(WEIGHT + column, mask=inside, other=0.0).to(tl.float32)
    y = rms_normalise(x, weight, eps, WIDTH)
    tl.store(OUT + row * WIDTH + column, y.to(OUT.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Like ``kernels.reference.qk_norm.rms_norm``; rounded once instead of twice.

    Args:
        x: ``[..., dim]``.
        weight: ``[dim]``, the type of ``x``.
        eps: added to the mean square.
    """
    width = x.shape[-1]
    rows = x.reshape(-1, width)
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    run_kernel(
        _rms_norm_kernel, (rows.shape[0],),
        rows, weight, out, rows.stride(0), eps,
        WIDTH=width, BLOCK=block_of(width), num_warps=row_warps(width),
    )  # fmt: skip
    return out
