"""Join the parts of tiles that several programs attended to, each over its own keys.

    out = sum_s w_s part_s / sum_s w_s,   w_s = 2^(log_sum_s - max_s log_sum_s)

parts ``[tiles, S, 128, D]`` normalised, log_sums ``[tiles, S, 128]`` the log2 of the sums they
were divided by, both float32; out ``[T, N, D]``, of which tile ``i`` is block ``(first + i) mod b``
of head ``(first + i) / b`` with ``b`` blocks of queries to a head. Moves ``4 S`` bytes in and 2 out
per element; bound by memory.

Source: Dao et al., "Flash-Decoding for long-context inference", 2023.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel

ROWS = 16
"""Queries of one program: a tile alone would leave most of the GPU idle."""


@triton.jit(do_not_specialize=["first_tile", "queries", "splits"])
@no_type_check
def _merge_splits_kernel(
    PARTS, LOG_SUMS, OUT, first_tile, queries, splits, out_token,
    TILE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    cut = tl.program_id(0)
    tile, blocks = first_tile + cut, tl.cdiv(queries, TILE)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    feature = tl.arange(0, WIDTH)
    sums = LOG_SUMS + cut.to(tl.int64) * splits * TILE + row
    parts = (
        PARTS + cut.to(tl.int64) * splits * TILE * WIDTH + row[:, None] * WIDTH + feature[None, :]
    )
    peak = tl.load(sums)
    for split in range(1, splits):
        peak = tl.maximum(peak, tl.load(sums + split * TILE))
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for split in range(splits):
        weight = tl.math.exp2(tl.load(sums + split * TILE) - peak)
        total += weight
        acc += weight[:, None] * tl.load(parts + split * TILE * WIDTH)
    query = tile % blocks * TILE + row
    place = query.to(tl.int64)[:, None] * out_token + tile // blocks * WIDTH + feature[None, :]
    result = (acc / total[:, None]).to(OUT.dtype.element_ty)
    tl.store(OUT + place, result, mask=query[:, None] < queries)


def merge_splits(parts: Tensor, log_sums: Tensor, out: Tensor, first_tile: int) -> None:
    """Like ``kernels.reference.merge_splits.merge_splits``.

    Args:
        parts: float32 ``[tiles, S, 128, D]``, each softmax-weighted over its own keys.
        log_sums: float32 ``[tiles, S, 128]``, log2 of each part's sum of exponentials.
        out: ``[T, N, D]``; receives the merged tiles.
        first_tile: number of the first tile.
    """
    tiles, splits, tile, width = parts.shape
    run_kernel(
        _merge_splits_kernel, (tiles, tile // ROWS),
        parts, log_sums, out, first_tile, out.shape[0], splits, out.stride(0),
        TILE=tile, WIDTH=width, ROWS=ROWS, num_warps=4,
    )  # fmt: skip
