"""Writing a chunk's keys and values into a wrapped ring; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from shotstream_rt.bench.kernel_case import KernelCase


def bench_kv_append(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    shapes = case.shapes
    arena = case.arena(filled=False)
    k, v = (case.normal(shapes.tokens, shapes.heads, shapes.head_dim) for _ in range(2))
    # The last frames of the ring, then round to its first one.
    slots = [shapes.cached_frames - shapes.frames + 1 + i for i in range(shapes.frames - 1)] + [0]
    rows = torch.cat([torch.arange(shapes.frame_tokens) + s * shapes.frame_tokens for s in slots])
    append = load_kernel("kv_append").kv_append

    def run() -> Tensor:
        append(arena.k, arena.v, k, v, slots, shapes.frame_tokens)
        return arena.k

    wanted = torch.zeros(arena.k.shape, device=case.device)
    wanted[rows] = k.float()
    case.measure(run, wanted, bytes_moved=2 * (k.nbytes + v.nbytes), flops=0)
