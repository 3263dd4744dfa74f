from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.cache import KVArena
from shotstream_rt.kernels.reference import dual_attention_fp8 as formats
from shotstream_rt.kernels.reference.rope_shot import rope_angles, rotation
from shotstream_rt.kernels.sets.arena_layout import ArenaLayout
from shotstream_rt.kernels.sets.kernel_set import TORCH_OPS

if TYPE_CHECKING:
    from .conftest import Twin

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]
CAPACITY, EPS = 6, 1e-6


def naive(qkv: Tensor, weights: list[Tensor], angles: Tensor, head_dim: int) -> list[Tensor]:
    """Normalised, turned and plain queries and keys, then values; float64."""
    heads = []
    for part, weight in zip(qkv.double().chunk(3, -1), [*weights, None], strict=True):
        if weight is not None:
            part = part / (part.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()
        heads.append(part.unflatten(-1, (-1, head_dim)))
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    turned = []
    for part in heads[:2]:
        a, b = part[..., ::2], part[..., 1::2]
        turned.append(torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2))
    return [turned[0], turned[1], heads[1], heads[2]]


@pytest.mark.parametrize("rotate_key", [True, False], ids=["on-write", "on-read"])
@pytest.mark.parametrize(
    "slots,grid,heads,head_dim",
    [([4], (1, 1), 1, 6), ([5, 0, 1], (1, 7), 3, 10), ([3, 2], (2, 2), 2, 64)],
    ids=["one", "wrapped", "scattered"],
)
def test_queries_come_back_and_keys_land_in_their_slots(
    twin: Twin, dtype: torch.dtype, normal: Draw, assert_close: Check,
    slots: list[int], grid: tuple[int, int], heads: int, head_dim: int, rotate_key: bool,
) -> None:  # fmt: skip
    frame_tokens, width = grid[0] * grid[1], heads * head_dim
    qkv = normal(len(slots) * frame_tokens, 3 * width, dtype=dtype)
    weights = [normal(width, dtype=dtype) for _ in range(2)]
    angles = rope_angles([4 + slot for slot in slots], [1 / 6] * len(slots), grid, head_dim)
    arena = torch.full((2, CAPACITY * frame_tokens, heads, head_dim), torch.nan, dtype=dtype)
    arena = arena.to(twin.device)
    q = twin.load("qkv_append").qkv_append(
        qkv.to(twin.device), *(w.to(twin.device) for w in weights),
        rotation(angles).to(twin.device), *arena, slots, frame_tokens, EPS, rotate_key,
    )  # fmt: skip
    turned_q, turned_k, plain_k, v = naive(qkv, weights, angles, head_dim)
    assert q.dtype == dtype
    assert_close("qkv_append", q, turned_q)
    stored_k, stored_v = arena.cpu().unflatten(1, (CAPACITY, frame_tokens))
    assert_close("qkv_append", stored_k[slots].flatten(0, 1), turned_k if rotate_key else plain_k)
    assert torch.equal(stored_v[slots].flatten(0, 1).double(), v)
    untouched = [slot for slot in range(CAPACITY) if slot not in slots]
    assert bool(stored_k[untouched].isnan().all())
    assert bool(stored_v[untouched].isnan().all())


@pytest.mark.parametrize("rotate_key", [True, False], ids=["on-write", "on-read"])
@pytest.mark.parametrize("slots", [[4], [5, 0, 1], [3, 2]], ids=["one", "wrapped", "scattered"])
def test_torchs_form_is_that_of_the_reference(
    dtype: torch.dtype, normal: Draw, assert_close: Check, slots: list[int], rotate_key: bool
) -> None:
    qkv, weights = normal(len(slots) * 6, 3 * 24, dtype=dtype), normal(2, 24, dtype=dtype)
    angles = rope_angles([4 + slot for slot in slots], [0.0] * len(slots), (2, 3), 12)
    arena = torch.full((2, CAPACITY * 6, 2, 12), torch.nan, dtype=dtype)
    q = TORCH_OPS.qkv_append(
        qkv, *weights, rotation(angles), *arena, slots, 6, EPS, rotate_key
    )  # fmt: skip
    turned_q, turned_k, plain_k, v = naive(qkv, list(weights), angles, 12)
    assert_close("qkv_append", q, turned_q)
    stored_k, stored_v = arena.unflatten(1, (CAPACITY, 6))
    assert_close("qkv_append", stored_k[slots].flatten(0, 1), turned_k if rotate_key else plain_k)
    assert torch.equal(stored_v[slots].flatten(0, 1).double(), v)
    others = [slot for slot in range(CAPACITY) if slot not in slots]
    assert bool(arena.unflatten(1, (CAPACITY, 6))[:, others].isnan().all())


@pytest.mark.parametrize("slots", [[4], [5, 0, 1]], ids=["one", "wrapped"])
@pytest.mark.parametrize("values_too", [False, True], ids=["qk8", "fp8"])
def test_keys_and_values_land_in_8_bits(
    twin: Twin, dtype: torch.dtype, normal: Draw, assert_close: Check, slots: list[int],
    values_too: bool,
) -> None:  # fmt: skip
    if twin.device.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no e4m3 before sm_89")
    heads, head_dim, grid = 2, 32, (3, 5)
    frame_tokens, width = grid[0] * grid[1], heads * head_dim
    qkv = normal(len(slots) * frame_tokens, 3 * width, dtype=dtype)
    weights = [normal(width, dtype=dtype) for _ in range(2)]
    angles = rope_angles([4 + slot for slot in slots], [1 / 6] * len(slots), grid, head_dim)
    turned_q, turned_k, _, v = naive(qkv, weights, angles, head_dim)
    scales = formats.key_scales(weights[1], heads), formats.head_scales(v)
    layout = ArenaLayout(keys_in_8_bits=True, values_in_8_bits=values_too)
    arena = KVArena(
        CAPACITY * frame_tokens, heads, head_dim, layout=layout, dtype=dtype, device=twin.device
    )
    arena.k.fill_(torch.nan)
    arena.v.fill_(torch.nan)
    module = twin.load("qkv_append")
    append = module.qkv_append_fp8 if values_too else module.qkv_append_qk8
    q = append(
        qkv.to(twin.device), *(w.to(twin.device) for w in weights),
        rotation(angles).to(twin.device), arena.k, arena.v,
        *(s.to(twin.device) for s in scales[: 1 + values_too]), slots, frame_tokens, EPS, True,
    )  # fmt: skip
    assert_close("qkv_append", q, turned_q)
    places = torch.tensor(slots)[:, None] * frame_tokens + torch.arange(frame_tokens)
    written = torch.zeros(CAPACITY * frame_tokens, dtype=torch.bool)
    written[places.flatten()] = True
    k, stored_v = arena.k.float().cpu(), arena.v.float().cpu()
    if values_too:
        k = k[formats.key_rows(len(written))]
        stored_v = stored_v.permute(2, 0, 1)[: len(written)]
        assert rounded(stored_v[places.flatten()] * scales[1][:, None], v, dtype, twin)
    else:
        assert torch.equal(stored_v[places.flatten()].double(), v)
    assert rounded(k[places.flatten()] * scales[0][:, None], turned_k, dtype, twin)
    assert bool(k[~written].isnan().all())
    assert bool(stored_v[~written].isnan().all())


def rounded(got: Tensor, wanted: Tensor, dtype: torch.dtype, twin: Twin) -> bool:
    """Whether all numbers are off by half a step of e4m3; the interpreter truncates, a whole one.

    In front of that, pairs that were turned were rounded to the type of activations. It also loses
    the carry of some numbers that round up to a power of two: they come out halved.
    """
    truncates = twin.device.type == "cpu" and not twin.package.endswith("reference")
    before = 1e-3 if dtype == torch.float32 else 2e-2
    room = (0.14 if truncates else 0.07) * wanted.abs() + before
    near = (got - wanted).abs() <= room
    if truncates:
        near |= (2 * got - wanted).abs() <= room
    return bool(near.all())


def test_rows_of_a_wider_projection_are_read_in_place(
    twin: Twin, normal: Draw, assert_close: Check
) -> None:
    wide, weight = normal(4, 3 * 12 + 4).to(twin.device), normal(12).to(twin.device)
    table = rotation(rope_angles([3], [0.0], (2, 2), 12)).to(twin.device)
    module, results = twin.load("qkv_append"), []
    for qkv in (wide[:, :36], wide[:, :36].contiguous()):
        arena = torch.zeros(2, 4, 1, 12, device=twin.device)
        q = module.qkv_append(qkv, weight, weight, table, *arena, [0], 4, EPS, True)
        results.append(torch.cat([q[None], arena]))
    assert torch.equal(*results)
