"""Attention of a chunk over a full cache, and over a folded caption; bound by arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.cache import KVArena
from shotstream_rt.kernels.kernel_set import REFERENCE, KernelSet

if TYPE_CHECKING:
    from .conftest import Shapes

CAPTION_TOKENS = 101
"""A hundred words' tokens and the key that stands for the padding."""


def bench_dual_attention(
    kernels: KernelSet,
    shapes: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    q = normal(1, shapes.tokens, shapes.heads, shapes.head_dim, dtype=dtype)
    arena = KVArena(
        shapes.cached_tokens, shapes.heads, shapes.head_dim, head_major=kernels.head_major,
        dtype=dtype, device=device,
    )  # fmt: skip
    arena.k.copy_(normal(*arena.k.shape))
    arena.v.copy_(normal(*arena.v.shape))
    k, v = arena.prefix(shapes.cached_tokens)
    scale = shapes.head_dim**-0.5
    measure(
        lambda: kernels.attention(q, k, v, scale, None),
        REFERENCE.attention(q.float(), k.float(), v.float(), scale, None),
        bytes_moved=2 * q.nbytes + arena.nbytes,
        flops=4 * q.numel() * shapes.cached_tokens,
    )


def bench_cross_attention(
    kernels: KernelSet,
    shapes: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    q = normal(1, shapes.tokens, shapes.heads, shapes.head_dim, dtype=dtype)
    k, v = (normal(1, CAPTION_TOKENS, *q.shape[2:], dtype=dtype) for _ in range(2))
    bias = torch.zeros(CAPTION_TOKENS, device=device)
    bias[-1] = torch.tensor(412.0).log()
    scale = shapes.head_dim**-0.5
    measure(
        lambda: kernels.attention(q, k, v, scale, bias),
        REFERENCE.attention(q.float(), k.float(), v.float(), scale, bias),
        bytes_moved=2 * q.nbytes + 2 * k.nbytes,
        flops=4 * q.numel() * CAPTION_TOKENS,
    )
