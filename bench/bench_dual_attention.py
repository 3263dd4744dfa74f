"""Attention of a chunk over a full cache, and over a folded caption; bound by arithmetic."""

from __future__ import annotations

import pytest
import torch

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet
from shotstream_rt.kernels.sets.library_attention import (
    cudnn_attention,
    fa3_attention,
    flash_attention,
    library_unavailable_reason,
)

LIBRARIES = {"cudnn": cudnn_attention, "flash": flash_attention, "fa3": fa3_attention}

CAPTION_TOKENS = 101
"""A hundred words' tokens and the key that stands for the padding."""


def bench_dual_attention(case: KernelCase, kernels: KernelSet) -> None:
    shapes = case.shapes
    q = case.normal(1, shapes.tokens, shapes.heads, shapes.head_dim)
    arena = case.arena(kernels.arena)
    k, v = arena.prefix(shapes.cached_tokens)
    scale = shapes.head_dim**-0.5
    case.measure(
        lambda: kernels.attention(q, k, v, scale, None),
        REFERENCE.attention(q.float(), k.float(), v.float(), scale, None),
        bytes_moved=2 * q.nbytes + arena.nbytes,
        flops=4 * q.numel() * shapes.cached_tokens,
    )


@pytest.mark.parametrize("library", ["cudnn", "flash", "fa3"])
def bench_library_attention(case: KernelCase, library: str) -> None:
    """The yardsticks: what ``triton+cudnn`` and the like would put in its place."""
    shapes = case.shapes
    reason = library_unavailable_reason(library, case.device, case.dtype, shapes.head_dim)
    if reason is not None:
        pytest.skip(reason)
    q = case.normal(1, shapes.tokens, shapes.heads, shapes.head_dim)
    arena = case.arena()
    k, v = arena.prefix(shapes.cached_tokens)
    scale = shapes.head_dim**-0.5
    attend = LIBRARIES[library]
    case.measure(
        lambda: attend(q, k, v, scale, None),
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
