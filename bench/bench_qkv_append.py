"""Norms, rotation and cache write of a chunk's fused projection; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import dual_attention_fp8 as formats
from shotstream_rt.kernels.reference.rope_shot import rope_angles, rotation
from shotstream_rt.kernels.sets.arena_layout import ArenaLayout
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet
from shotstream_rt.kernels.tuning import FP8_CAPABILITY, capability_of


def bench_qkv_append(case: KernelCase, kernels: KernelSet) -> None:
    shapes = case.shapes
    qkv = case.normal(shapes.tokens, 3 * shapes.dim)
    weights = [case.normal(shapes.dim) for _ in range(2)]
    first = shapes.cached_frames - shapes.frames
    slots = range(first, shapes.cached_frames)
    grid = (shapes.rows, shapes.columns)
    angles = rope_angles(list(slots), [0.0] * shapes.frames, grid, shapes.head_dim)
    table = rotation(angles).to(case.device)

    def made_of(kind: torch.dtype, append: Callable[..., Tensor]) -> Callable[[], Tensor]:
        given = [x.to(kind) for x in (qkv, *weights)]
        shape = (2, shapes.cached_tokens, shapes.heads, shapes.head_dim)
        arena = torch.zeros(shape, dtype=kind, device=case.device)
        return lambda: append(*given, table, *arena, slots, shapes.frame_tokens, 1e-6, True)

    case.measure(
        made_of(case.dtype, kernels.qkv_append),
        made_of(torch.float32, REFERENCE.qkv_append)(),
        bytes_moved=2 * qkv.nbytes,
        flops=14 * shapes.tokens * shapes.dim,
    )


@pytest.mark.parametrize("precision", ["qk8", "fp8"])
def bench_qkv_append_in_8_bits(
    case: KernelCase, load_kernel: Callable[[str], ModuleType], precision: str
) -> None:
    """Write a chunk to an 8-bit arena.

    Args:
        case: see ``KernelCase``.
        load_kernel: gives each form of the kernel in turn.
        precision: what has 8 bits: keys (``qk8``), or values too (``fp8``).
    """
    shapes = case.shapes
    qkv = case.normal(shapes.tokens, 3 * shapes.dim)
    if qkv.is_cuda and capability_of(qkv) < FP8_CAPABILITY:
        pytest.skip(f"no e4m3 before sm_{FP8_CAPABILITY}")
    weights = [case.normal(shapes.dim) for _ in range(2)]
    values = qkv[:, 2 * shapes.dim :].unflatten(-1, (shapes.heads, -1))
    scales = (formats.key_scales(weights[1], shapes.heads), formats.head_scales(values))
    values_too = precision == "fp8"
    layout = ArenaLayout(keys_in_8_bits=True, values_in_8_bits=values_too)
    arena = case.arena(layout, filled=False)
    first = shapes.cached_frames - shapes.frames
    slots = range(first, shapes.cached_frames)
    grid = (shapes.rows, shapes.columns)
    angles = rope_angles(list(slots), [0.0] * shapes.frames, grid, shapes.head_dim)
    table = rotation(angles).to(case.device)
    append = getattr(load_kernel("qkv_append"), f"qkv_append_{precision}")
    plain = torch.zeros(2, shapes.cached_tokens, *values.shape[1:], device=case.device)
    wanted = REFERENCE.qkv_append(
        qkv.float(), *(w.float() for w in weights), table, *plain, slots, shapes.frame_tokens, 1e-6,
        True,
    )  # fmt: skip

    def run() -> Tensor:
        made: Tensor = append(
            qkv, *weights, table, arena.k, arena.v, *scales[: 1 + values_too], slots,
            shapes.frame_tokens, 1e-6, True,
        )  # fmt: skip
        return made

    numbers = shapes.tokens * shapes.dim
    stored = numbers * (1 + (1 if values_too else case.dtype.itemsize))
    case.measure(
        run, wanted, bytes_moved=qkv.nbytes + numbers * case.dtype.itemsize + stored,
        flops=14 * numbers,
    )  # fmt: skip
