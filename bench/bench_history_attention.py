"""Attention of a chunk in which some heads read the context and the last frames only."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import history_attention as reference
from shotstream_rt.kernels.sets.kernel_set import HistoryAttention, gluon_unavailable_reason

CONTEXT_FRAMES, RECENT_FRAMES = 6, 3


@pytest.mark.parametrize("pruned", [0, 50, 75, 100], ids=lambda share: f"{share}%")
def bench_history_attention(
    case: KernelCase, load_kernel: Callable[[str], ModuleType], pruned: int
) -> None:
    """Measure each portable form.

    Args:
        case: see ``KernelCase``.
        load_kernel: gives each form of the kernel in turn.
        pruned: per cent of the heads that do not read everything.
    """
    measure(case, load_kernel("history_attention").history_attention, pruned)


@pytest.mark.parametrize("pruned", [0, 50, 75, 100], ids=lambda share: f"{share}%")
def bench_hopper_history_attention(case: KernelCase, pruned: int) -> None:
    reason = gluon_unavailable_reason(case.device, case.dtype, case.shapes.head_dim)
    if reason is not None:
        pytest.skip(reason)
    from shotstream_rt.kernels.gpu.history_attention_hopper import history_attention

    measure(case, history_attention, pruned)


def measure(case: KernelCase, attend: HistoryAttention, pruned: int) -> None:
    """Measure one form.

    Args:
        case: what a bench needs.
        attend: the form.
        pruned: per cent of the heads that do not read everything.
    """
    shapes = case.shapes
    context = min(CONTEXT_FRAMES, shapes.cached_frames - shapes.frames) * shapes.frame_tokens
    recent = shapes.cached_tokens - (RECENT_FRAMES + shapes.frames) * shapes.frame_tokens
    few = [(0, context), (max(context, recent), shapes.cached_tokens)]
    count = shapes.heads * pruned // 100
    spans = [few] * count + [[(0, shapes.cached_tokens)]] * (shapes.heads - count)
    q = case.normal(1, shapes.tokens, shapes.heads, shapes.head_dim)
    arena = case.arena()
    k, v = arena.prefix(shapes.cached_tokens)
    scale = shapes.head_dim**-0.5
    read = sum(end - begin for own in spans for begin, end in own)
    case.measure(
        lambda: attend(q, k, v, scale, spans),
        reference.history_attention(q.float(), k.float(), v.float(), scale, spans),
        bytes_moved=2 * q.nbytes + 2 * read * shapes.head_dim * q.element_size(),
        flops=4 * shapes.tokens * read * shapes.head_dim,
    )
