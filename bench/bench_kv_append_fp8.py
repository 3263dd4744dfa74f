"""Rounding a chunk's keys and values to 8 bits into a wrapped ring; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import dual_attention_fp8 as formats
from shotstream_rt.kernels.tuning import FP8_CAPABILITY, capability_of


def bench_kv_append_fp8(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    shapes = case.shapes
    k, v = (case.normal(shapes.tokens, shapes.heads, shapes.head_dim) for _ in range(2))
    if k.is_cuda and capability_of(k) < FP8_CAPABILITY:
        pytest.skip(f"no e4m3 before sm_{FP8_CAPABILITY}")
    zeros = torch.zeros(shapes.cached_tokens, shapes.heads, shapes.head_dim, device=case.device)
    arena_k, arena_v = formats.arena_of(*[zeros.to(torch.float8_e4m3fn)] * 2)
    arena_k = arena_k[0]
    scales = formats.head_scales(k), formats.head_scales(v)
    slots = [shapes.cached_frames - shapes.frames + 1 + i for i in range(shapes.frames - 1)] + [0]
    append = load_kernel("kv_append_fp8").kv_append_fp8

    def run() -> Tensor:
        append(arena_k, arena_v, k, v, *scales, slots, shapes.frame_tokens)
        return arena_v

    starts = torch.tensor(slots)[:, None] * shapes.frame_tokens
    token = (starts + torch.arange(shapes.frame_tokens)).flatten()
    wanted = torch.zeros(arena_v.shape, device=case.device)
    wanted[:, :, token] = formats.quantise(v, scales[1]).float().permute(1, 2, 0)
    case.measure(run, wanted, bytes_moved=k.nbytes + v.nbytes + 2 * k.numel(), flops=0)
