"""Attention of a chunk over a full 8-bit cache; bound by the matrix units and the exponentials."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import dual_attention_fp8 as reference
from shotstream_rt.kernels.tuning import FP8_CAPABILITY, capability_of

TOLERANCE = {"qk8": 2e-2, "fp8": 4e-2, "fp8_out": 6e-2}
"""The second rounds weights to three bits, the third its result too."""


@pytest.mark.parametrize("precision", TOLERANCE)
def bench_dual_attention_fp8(
    case: KernelCase, load_kernel: Callable[[str], ModuleType], precision: str
) -> None:
    """Attend to every key of an 8-bit arena.

    Args:
        case: see ``KernelCase``.
        load_kernel: gives each form of the kernel in turn.
        precision: what has 8 bits: keys (``qk8``), values too (``fp8``), the result too
            (``fp8_out``).
    """
    shapes, keys = case.shapes, case.shapes.cached_tokens
    q = case.normal(1, shapes.tokens, shapes.heads, shapes.head_dim)
    if q.is_cuda and capability_of(q) < FP8_CAPABILITY:
        pytest.skip(f"no e4m3 before sm_{FP8_CAPABILITY}")
    arena, scale = case.arena(), shapes.head_dim**-0.5
    k_scales, v_scales = reference.head_scales(arena.k), reference.head_scales(arena.v)
    k = reference.quantise(arena.k, k_scales)
    if precision == "qk8":
        stored: tuple[Any, ...] = (k[None], arena.v[None], scale, k_scales)
    else:
        values = reference.quantise(arena.v, v_scales)
        scales = v_scales / v_scales.amax() if precision == "fp8_out" else v_scales
        stored = (*reference.arena_of(k, values), keys, scale, k_scales, scales)
    attend, attend_exactly = (
        getattr(given, f"dual_attention_{precision}")
        for given in (load_kernel("dual_attention_fp8"), reference)
    )
    case.measure(
        lambda: attend(q, *stored),
        attend_exactly(q.float(), *stored),
        bytes_moved=2 * q.nbytes + stored[0].nbytes + stored[1].nbytes,
        flops=4 * q.numel() * keys,
        tolerance=TOLERANCE[precision],
    )
