"""Writing a chunk's keys and values into a wrapped ring; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.cache import KVArena
from shotstream_rt.kernels.kernel_set import KernelSet

if TYPE_CHECKING:
    from .conftest import Shapes


def bench_kv_append(
    kernels: KernelSet,
    shapes: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    arena = KVArena(
        shapes.cached_tokens, shapes.heads, shapes.head_dim, head_major=kernels.head_major,
        dtype=dtype, device=device,
    )  # fmt: skip
    k, v = (normal(shapes.tokens, shapes.heads, shapes.head_dim, dtype=dtype) for _ in range(2))
    # The last frames of the ring, then round to its first one.
    slots = [shapes.cached_frames - shapes.frames + 1 + i for i in range(shapes.frames - 1)] + [0]
    rows = torch.cat([torch.arange(shapes.frame_tokens) + s * shapes.frame_tokens for s in slots])

    def run() -> Tensor:
        kernels.kv_append(arena.k, arena.v, k, v, slots, shapes.frame_tokens)
        return arena.k

    wanted = torch.zeros(arena.k.shape, device=device)
    wanted[rows] = k.float()
    measure(run, wanted, bytes_moved=2 * (k.nbytes + v.nbytes), flops=0)
