from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.reference.dual_attention_fp8 import (
    dual_attention_fp8,
    head_scales,
    key_rows,
    quantise,
)

Draw = Callable[..., Tensor]
CAPACITY, HEADS, WIDTH = 6, 2, 32


def empty_arena(frame_tokens: int) -> tuple[Tensor, Tensor]:
    """Keys and values of an arena with NaN everywhere."""
    tokens = -(-CAPACITY * frame_tokens // 16) * 16
    k, v = torch.full((2, tokens * HEADS * WIDTH), torch.nan).to(torch.float8_e4m3fn)
    return k.view(tokens, HEADS, WIDTH), v.view(HEADS, WIDTH, tokens)


def append(twin: Any, arena: tuple[Tensor, Tensor], *given: Any) -> None:
    """Write through one of the twins, wherever it takes its tensors."""
    if twin.device.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no e4m3 before sm_89")
    there = [x.to(twin.device) if isinstance(x, Tensor) else x for x in (*arena, *given)]
    twin.load("kv_append_fp8").kv_append_fp8(*there)
    for here, moved in zip(arena, there[:2], strict=True):
        here.copy_(moved)


def same(twin: Any, stored: Tensor, wanted: Tensor) -> bool:
    """Equal; in the interpreter, what rounds up to a power of two may have lost its carry."""
    got, wide = stored.float(), wanted.float()
    near = got == wide
    if not twin.package.endswith("reference") and twin.device.type == "cpu":
        power = torch.frexp(wide).mantissa.abs() == 0.5
        near = near | (power & (got == wide / 2)) | ((got - wide).abs() <= 2**-6)
    return bool(near.all())


@pytest.mark.parametrize("frame_tokens", [3, 24, 70])
@pytest.mark.parametrize("slots", [[0], [4, 5, 1], [3, 0]], ids=["one", "wrapped", "scattered"])
def test_only_planned_slots_are_written(
    twin: Any, normal: Draw, slots: list[int], frame_tokens: int
) -> None:
    arena = empty_arena(frame_tokens)
    k, v = (normal(len(slots) * frame_tokens, HEADS, WIDTH) for _ in range(2))
    k_scales, v_scales = head_scales(k), head_scales(v) / 2  # the largest values saturate
    append(twin, arena, k, v, k_scales, v_scales, slots, frame_tokens)
    rows = key_rows(arena[0].shape[0])
    written = torch.zeros(len(rows), dtype=torch.bool)
    for index, slot in enumerate(slots):
        given = slice(index * frame_tokens, (index + 1) * frame_tokens)
        place = torch.arange(slot * frame_tokens, (slot + 1) * frame_tokens)
        written[place] = True
        stored = arena[0].view(torch.uint8)[rows[place]].view(torch.float8_e4m3fn)
        assert same(twin, stored, quantise(k[given], k_scales))
        stored = arena[1].view(torch.uint8)[:, :, place].view(torch.float8_e4m3fn)
        assert same(twin, stored, quantise(v[given], v_scales).permute(1, 2, 0))
    assert bool(arena[0].float()[rows[~written]].isnan().all())
    assert bool(arena[1].float()[:, :, ~written].isnan().all())


def test_what_is_written_is_what_attention_reads(twin: Any, normal: Draw) -> None:
    frame_tokens, keys = 11, 44
    arena = empty_arena(frame_tokens)
    k, v, q = (normal(n, HEADS, WIDTH) for n in (keys, keys, 7))
    scales = head_scales(k), head_scales(v)
    append(twin, arena, k, v, *scales, [2, 0, 3, 1], frame_tokens)
    got = dual_attention_fp8(q[None], arena[0][None], arena[1], keys, 0.2, *scales)
    logits = torch.einsum("qnd,knd->nqk", q.double(), k.double()) * 0.2
    wanted = torch.einsum("nqk,knd->qnd", logits.softmax(-1), v.double())[None]
    assert float((got - wanted).norm() / wanted.norm()) < 0.12


def test_arenas_with_gaps_are_refused(triton_device: torch.device) -> None:
    from shotstream_rt.kernels.gpu.kv_append_fp8 import kv_append_fp8

    x = torch.zeros(16, 2, 32, device=triton_device)
    one = torch.ones(2, device=triton_device)
    with pytest.raises(ValueError, match="wanted dense ones"):
        kv_append_fp8(x[:, :1], x, x, x, one, one, [0], 16)
