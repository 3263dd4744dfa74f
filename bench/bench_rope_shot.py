"""Rotary embedding of a chunk's queries from a tabulated rotation; bound by memory."""

from __future__ import annotations

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference.rope_shot import SHOT_PHASE_RAD, rope_angles, rotation
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet


def bench_rotate(case: KernelCase, kernels: KernelSet) -> None:
    shapes = case.shapes
    q = case.normal(1, shapes.tokens, shapes.heads, shapes.head_dim)
    positions = range(shapes.cached_frames - shapes.frames, shapes.cached_frames)
    phases = [3 * SHOT_PHASE_RAD] * shapes.frames
    grid = shapes.rows, shapes.columns
    table = rotation(rope_angles(list(positions), phases, grid, shapes.head_dim)).to(case.device)
    case.measure(
        lambda: kernels.rotate(q, table),
        REFERENCE.rotate(q.float(), table),
        bytes_moved=2 * q.nbytes + table.nbytes,
        flops=3 * q.numel(),
    )
