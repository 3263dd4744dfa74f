"""Norms, rotation and cache write of a chunk's fused projection; bound by memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.kernel_set import REFERENCE, KernelSet
from shotstream_rt.kernels.reference.rope_shot import rope_angles, rotation


def bench_qkv_append(case: KernelCase, kernels: KernelSet) -> None:
    shapes = case.shapes
    qkv = case.normal(shapes.tokens, 3 * shapes.dim)
    weights = [case.normal(shapes.dim) for _ in range(2)]
    first = shapes.cached_frames - shapes.frames
    slots = range(first, shapes.cached_frames)
    grid = (shapes.rows, shapes.columns)
    angles = rope_angles(list(slots), [0.0] * shapes.frames, grid, shapes.head_dim)
    table = rotation(angles).to(case.device)

    def made_of(kind: torch.dtype, append: Callable[..., Tensor]) -> Callable[[], Tensor]:
        given = [x.to(kind) for x in (qkv, *weights)]
        shape = (2, shapes.cached_tokens, shapes.heads, shapes.head_dim)
        arena = torch.zeros(shape, dtype=kind, device=case.device)
        return lambda: append(*given, table, *arena, slots, shapes.frame_tokens, 1e-6, True)

    case.measure(
        made_of(case.dtype, kernels.qkv_append),
        made_of(torch.float32, REFERENCE.qkv_append)(),
        bytes_moved=2 * qkv.nbytes,
        flops=14 * shapes.tokens * shapes.dim,
    )
