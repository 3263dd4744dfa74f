"""Joining the parts of the tiles that the last wave of attention cuts by keys; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import merge_splits as reference

TILE, CUT_SHARE, SPLITS = 128, 9, 5
"""Queries of a tile; one tile in so many is cut, 48 of 444 on an H200; parts of each."""


def bench_merge_splits(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    shapes = case.shapes
    tiles = -(-shapes.tokens // TILE) * shapes.heads
    cut = -(-tiles // CUT_SHARE)
    parts = case.normal(cut, SPLITS, TILE, shapes.head_dim, dtype=torch.float32)
    log_sums = case.normal(cut, SPLITS, TILE, dtype=torch.float32)
    out = torch.zeros(
        shapes.tokens, shapes.heads, shapes.head_dim, dtype=case.dtype, device=case.device
    )
    wanted = torch.zeros_like(out, dtype=torch.float32)
    reference.merge_splits(parts, log_sums, wanted, tiles - cut)
    module = load_kernel("merge_splits")

    def run() -> Tensor:
        module.merge_splits(parts, log_sums, out, tiles - cut)
        return out

    case.measure(
        run,
        wanted,
        bytes_moved=parts.nbytes + log_sums.nbytes + parts[:, 0].numel() * out.element_size(),
        flops=2 * parts.numel(),
    )
