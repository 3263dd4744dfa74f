"""Norms, rotation and cache write of a chunk's fused projection; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.kernels.reference.qkv_append import qkv_append
from shotstream_rt.kernels.reference.rope_shot import rope_angles, rotation

if TYPE_CHECKING:
    from .conftest import Shapes


def bench_qkv_append(
    shapes: Shapes,
    dtype: torch.dtype,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    qkv = normal(shapes.tokens, 3 * shapes.dim, dtype=dtype)
    weights = [normal(shapes.dim, dtype=dtype) for _ in range(2)]
    first = shapes.cached_frames - shapes.frames
    slots = range(first, shapes.cached_frames)
    grid = (shapes.rows, shapes.columns)
    table = rotation(rope_angles(list(slots), [0.0] * shapes.frames, grid, shapes.head_dim))

    def run(qkv: Tensor, weights: list[Tensor], arena: Tensor) -> Tensor:
        q = qkv_append(qkv, *weights, table, *arena, slots, shapes.frame_tokens, 1e-6, True)
        return torch.cat([q[None], arena[:, first * shapes.frame_tokens :]])

    def arena_of(kind: torch.dtype) -> Tensor:
        return torch.zeros(2, shapes.cached_tokens, shapes.heads, shapes.head_dim, dtype=kind)

    arena = arena_of(dtype)
    wanted = run(qkv.float(), [w.float() for w in weights], arena_of(torch.float32))
    measure(
        lambda: run(qkv, weights, arena),
        wanted,
        bytes_moved=2 * qkv.nbytes,
        flops=14 * shapes.tokens * shapes.dim,
    )
