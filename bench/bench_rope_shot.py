"""Rotary embedding of a chunk's queries from a tabulated rotation; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.kernels.kernel_set import REFERENCE, KernelSet
from shotstream_rt.kernels.reference.rope_shot import SHOT_PHASE_RAD, rope_angles, rotation

if TYPE_CHECKING:
    from .conftest import Shapes


def bench_rotate(
    kernels: KernelSet,
    shapes: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    q = normal(1, shapes.tokens, shapes.heads, shapes.head_dim, dtype=dtype)
    positions = range(shapes.cached_frames - shapes.frames, shapes.cached_frames)
    phases = [3 * SHOT_PHASE_RAD] * shapes.frames
    grid = shapes.rows, shapes.columns
    table = rotation(rope_angles(list(positions), phases, grid, shapes.head_dim)).to(device)
    measure(
        lambda: kernels.rotate(q, table),
        REFERENCE.rotate(q.float(), table),
        bytes_moved=2 * q.nbytes + table.nbytes,
        flops=3 * q.numel(),
    )
