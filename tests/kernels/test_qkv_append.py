from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.reference.rope_shot import rope_angles, rotation

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
