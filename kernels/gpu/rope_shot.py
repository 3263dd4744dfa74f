"""Rotary embedding from a table, one program per token.

    (a, b) -> (a cos - b sin, a sin + b cos)   for the feature pairs (2j, 2j + 1) of every head

x ``[..., T, N, D]`` at any token stride; table complex64 ``[T, D / 2]``, one row for all heads.
Bound by memory: each number is read and written once, the table adds 8 bytes per pair of one head.
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
def turn_pairs(x, table, BLOCK: tl.constexpr):
    """Rotate each feature pair of a row; device code.

    Args:
        x: float32 ``[BLOCK]``, pairs of features side by side.
        table: float32 ``[BLOCK]``, the pairs' (cos, sin) side by side.
        BLOCK: numbers in the row.
    """
    a, b = tl.split(tl.reshape(x, [BLOCK // 2, 2]))
    cos, sin = tl.split(tl.reshape(table, [BLOCK // 2, 2]))
    return tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), [BLOCK])


@triton.jit
@no_type_check
def _rotate_kernel(
    X, TABLE, OUT, token_stride, table_tokens,
    WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    table_row = TABLE + token % table_tokens * HEAD_DIM
    token = token.to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x = tl.load(X + token * token_stride + column, mask=inside, other=0.0).to(tl.float32)
    table = tl.load(table_row + column % HEAD_DIM, mask=inside, other=0.0)
    y = turn_pairs(x, table, BLOCK)
    tl.store(OUT + token * WIDTH + column, y.to(OUT.dtype.element_ty), mask=inside)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Like ``kernels.reference.rope_shot.rotate``."""
    heads, head_dim = x.shape[-2:]
    width = heads * head_dim
    tokens = x.reshape(-1, width)
    tokens = tokens if tokens.stride(-1) == 1 else tokens.contiguous()
    rows = torch.view_as_real(table).contiguous().view(-1, head_dim)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    run_kernel(
        _rotate_kernel, (tokens.shape[0],),
        tokens, rows, out, tokens.stride(0), rows.shape[0],
        WIDTH=width, HEAD_DIM=head_dim, BLOCK=block_of(width), num_warps=row_warps(width),
    )  # fmt: skip
    return out
