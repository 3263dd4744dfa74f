"""Norms, rotation and cache write of a chunk's fused projection; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.kernels.reference.qkv_append import qkv_append
from shotstream_rt.kernels.reference.rope_shot import rope_angles, rotation

if TYPE_CHECKING:
    from .conftest import Shapes


def bench_qkv_append(
    load_kernel: Callable[[str], ModuleType],
    shapes: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    qkv = normal(shapes.tokens, 3 * shapes.dim, dtype=dtype)
    weights = [normal(shapes.dim, dtype=dtype) for _ in range(2)]
    first = shapes.cached_frames - shapes.frames
    slots = range(first, shapes.cached_frames)
    grid = (shapes.rows, shapes.columns)
    angles = rope_angles(list(slots), [0.0] * shapes.frames, grid, shapes.head_dim)
    table = rotation(angles).to(device)

    def made_of(kind: torch.dtype, append: Callable[..., Tensor]) -> Callable[[], Tensor]:
        given = [x.to(kind) for x in (qkv, *weights)]
        shape = (2, shapes.cached_tokens, shapes.heads, shapes.head_dim)
        arena = torch.zeros(shape, dtype=kind, device=device)
        return lambda: append(*given, table, *arena, slots, shapes.frame_tokens, 1e-6, True)

    measure(
        made_of(dtype, load_kernel("qkv_append").qkv_append),
        made_of(torch.float32, qkv_append)(),
        bytes_moved=2 * qkv.nbytes,
        flops=14 * shapes.tokens * shapes.dim,
    )
