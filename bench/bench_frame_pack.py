"""Packing of one chunk's frames into bytes; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference.frame_pack import frame_pack


def bench_frame_pack(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    # A latent frame is four frames, a token 16 pixels square.
    shapes = case.shapes
    pixels = case.normal(4 * shapes.frames, 3, 16 * shapes.rows, 16 * shapes.columns)
    pack = load_kernel("frame_pack").frame_pack
    case.measure(
        lambda: pack(pixels),
        frame_pack(pixels.float()),
        bytes_moved=pixels.nbytes + pixels.numel(),
        flops=2 * pixels.numel(),
    )
