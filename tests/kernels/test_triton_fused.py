"""Fused kernels and those that no kernel set names: each twin against the formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.reference.frame_pack import frame_pack
from shotstream_rt.kernels.reference.renoise import renoise, to_x0

if TYPE_CHECKING:
    from .conftest import Twin

Draw = Callable[..., Tensor]
SHAPE = (1, 3, 5, 2, 7)
TRUNCATED_BF16 = 2**-7
"""Largest relative error of one conversion in the Triton interpreter, which truncates."""


@pytest.mark.parametrize("sigma", [1.0, 0.7375886, 0.007944, "per frame"])
def test_levels_are_applied_like_the_reference(
    triton_device: torch.device, dtype: torch.dtype, normal: Draw, sigma: float | str
) -> None:
    from shotstream_rt.kernels.gpu import renoise as compiled

    level = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1, 1) if sigma == "per frame" else sigma
    x_t, flow = normal(*SHAPE, dtype=dtype), normal(*SHAPE, dtype=dtype)
    there = x_t.to(triton_device), flow.to(triton_device)
    if isinstance(level, Tensor):
        got = [f(*there, level.to(triton_device)) for f in (compiled.to_x0, compiled.renoise)]
    else:
        got = [f(*there, level) for f in (compiled.to_x0, compiled.renoise)]
    for made, wanted in zip(got, (to_x0(x_t, flow, level), renoise(x_t, flow, level)), strict=True):
        assert made.dtype == dtype
        assert_same_numbers(made, wanted, triton_device)


def test_levels_must_follow_leading_axes(triton_device: torch.device) -> None:
    from shotstream_rt.kernels.gpu.renoise import to_x0 as compiled

    x = torch.zeros(SHAPE, device=triton_device)
    with pytest.raises(ValueError, match="sigma"):
        compiled(x, x, torch.ones(1, 1, 5, 1, 1, device=triton_device))


@pytest.mark.parametrize("step", [0, 2])
def test_a_step_ends_and_the_next_begins(
    twin: Twin, dtype: torch.dtype, normal: Draw, step: int
) -> None:
    sigmas = [1.0, 0.9, 0.7375886, 0.3]
    x_t, flow, noise = (normal(*SHAPE, dtype=dtype) for _ in range(3))
    x0, mixed = twin.load("renoise").advance(
        *(t.to(twin.device) for t in (x_t, flow, noise)),
        torch.tensor(sigmas, dtype=torch.float64, device=twin.device), step,
    )  # fmt: skip
    assert_same_numbers(x0, to_x0(x_t, flow, sigmas[step]), twin.device)
    assert_same_numbers(mixed, renoise(x0.cpu(), noise, sigmas[step + 1]), twin.device)


def assert_same_numbers(got: Tensor, wanted: Tensor, device: torch.device) -> None:
    """Bit for bit, but for the interpreter's conversions to bfloat16."""
    got = got.cpu()
    if got.dtype == torch.float32 or device.type == "cuda":
        assert torch.equal(got, wanted)
    else:
        error = (got.double() - wanted.double()).abs()
        largest = wanted.double().abs().clamp(min=1.0)
        assert bool((error <= TRUNCATED_BF16 * largest).all())


@pytest.mark.parametrize(
    "frames,height,width", [(1, 1, 1), (3, 5, 7), (1, 40, 40)], ids=["one", "odd", "programs"]
)
@pytest.mark.parametrize("layout", ["planes", "pixels"])
def test_bytes_are_the_reference_s(
    triton_device: torch.device, dtype: torch.dtype, normal: Draw,
    frames: int, height: int, width: int, layout: str,
) -> None:  # fmt: skip
    from shotstream_rt.kernels.gpu.frame_pack import frame_pack as compiled

    pixels = normal(frames, 3, height, width, dtype=dtype)
    if layout == "pixels":
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    got = compiled(pixels.to(triton_device))
    assert got.is_contiguous()
    assert torch.equal(got.cpu(), frame_pack(pixels))


def test_a_head_major_arena_is_refused(triton_device: torch.device) -> None:
    from shotstream_rt.kernels.gpu.kv_append import kv_append

    arena = torch.zeros(2, 6, 8, device=triton_device).transpose(0, 1)
    k = torch.zeros(3, 2, 8, device=triton_device)
    with pytest.raises(ValueError, match="head_major"):
        kv_append(arena, arena, k, k, [0], 3)


def test_slots_may_be_on_the_device(triton_device: torch.device, normal: Draw) -> None:
    from shotstream_rt.kernels.gpu.kv_append import kv_append

    k = normal(4, 2, 8).to(triton_device)
    arena_k, arena_v = torch.zeros(2, 6, 2, 8, device=triton_device)
    slots = torch.tensor([2, 0], dtype=torch.int32, device=triton_device)
    kv_append(arena_k, arena_v, k, -k, slots, 2)
    assert torch.equal(arena_k[4:], k[:2])
    assert torch.equal(arena_v[:2], -k[2:])
    assert not bool(arena_k[2:4].any())
