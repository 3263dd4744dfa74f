"""Attention of a chunk over a full cache, and over a folded caption; bound by arithmetic."""

from __future__ import annotations

import torch

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.kernel_set import REFERENCE, KernelSet

CAPTION_TOKENS = 101
"""A hundred words' tokens and the key that stands for the padding."""


def bench_dual_attention(case: KernelCase, kernels: KernelSet) -> None:
    shapes = case.shapes
    q = case.normal(1, shapes.tokens, shapes.heads, shapes.head_dim)
    arena = case.arena(head_major=kernels.head_major)
    k, v = arena.prefix(shapes.cached_tokens)
    scale = shapes.head_dim**-0.5
    case.measure(
        lambda: kernels.attention(q, k, v, scale, None),
        REFERENCE.attention(q.float(), k.float(), v.float(), scale, None),
        bytes_moved=2 * q.nbytes + arena.nbytes,
        flops=4 * q.numel() * shapes.cached_tokens,
    )


def bench_cross_attention(case: KernelCase, kernels: KernelSet) -> None:
    shapes = case.shapes
    q = case.normal(1, shapes.tokens, shapes.heads, shapes.head_dim)
    k, v = (case.normal(1, CAPTION_TOKENS, *q.shape[2:]) for _ in range(2))
    bias = torch.zeros(CAPTION_TOKENS, device=case.device)
    bias[-1] = torch.tensor(412.0).log()
    scale = shapes.head_dim**-0.5
    case.measure(
        lambda: kernels.cross_attention(q, k, v, scale, bias),
        REFERENCE.cross_attention(q.float(), k.float(), v.float(), scale, bias),
        bytes_moved=2 * q.nbytes + 2 * k.nbytes,
        flops=4 * q.numel() * CAPTION_TOKENS,
    )
