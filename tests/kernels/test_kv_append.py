from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.cache import KVArena
from shotstream_rt.kernels.reference.kv_append import kv_append
from shotstream_rt.kernels.sets.arena_layout import ArenaLayout

if TYPE_CHECKING:
    from .conftest import Twin

Draw = Callable[..., Tensor]
CAPACITY, HEADS, WIDTH = 9, 2, 5


def empty_arena(frame_tokens: int, dtype: torch.dtype, *, head_major: bool = False) -> KVArena:
    """An arena with NaN everywhere, on the host."""
    arena = KVArena(
        CAPACITY * frame_tokens, HEADS, WIDTH, layout=ArenaLayout(head_major=head_major),
        dtype=dtype, device=torch.device("cpu"),
    )  # fmt: skip
    arena.k.fill_(torch.nan)
    arena.v.fill_(torch.nan)
    return arena


def append(twin: Twin, arena: KVArena, k: Tensor, v: Tensor, slots: list[int], size: int) -> None:
    """Write through one of the twins, wherever it takes its tensors."""
    moved = [t.to(twin.device) for t in (arena.k, arena.v, k, v)]
    twin.load("kv_append").kv_append(*moved, slots, size)
    for here, there in zip((arena.k, arena.v), moved[:2], strict=True):
        here.copy_(there)


@pytest.mark.parametrize("frame_tokens", [1, 7])
@pytest.mark.parametrize(
    "slots", [[4], [0, 1, 2], [8, 6, 7], [7, 8, 3], [5, 2, 6]],
    ids=["one", "start", "wrapped", "sink", "scattered"],
)  # fmt: skip
def test_only_planned_slots_are_written(
    twin: Twin, dtype: torch.dtype, normal: Draw, slots: list[int], frame_tokens: int
) -> None:
    arena = empty_arena(frame_tokens, dtype)
    k, v = (normal(len(slots) * frame_tokens, HEADS, WIDTH, dtype=dtype) for _ in range(2))
    append(twin, arena, k, v, slots, frame_tokens)
    for stored, given in ((arena.k, k), (arena.v, v)):
        frames = stored.unflatten(0, (CAPACITY, frame_tokens))
        for index, slot in enumerate(slots):
            wanted = given[index * frame_tokens : (index + 1) * frame_tokens]
            assert torch.equal(frames[slot], wanted)
        untouched = [slot for slot in range(CAPACITY) if slot not in slots]
        assert bool(frames[untouched].isnan().all())


def test_a_later_pass_overwrites(twin: Twin, normal: Draw) -> None:
    arena = empty_arena(2, torch.float32)
    first, second = normal(4, HEADS, WIDTH), normal(4, HEADS, WIDTH)
    for keys in (first, second):
        append(twin, arena, keys, keys, [1, 2], 2)
    assert torch.equal(arena.k[2:6], second)


def test_the_reference_takes_both_layouts(normal: Draw) -> None:
    k, v = normal(6, HEADS, WIDTH), normal(6, HEADS, WIDTH)
    arenas = [empty_arena(2, torch.float32, head_major=major) for major in (False, True)]
    for arena in arenas:
        kv_append(arena.k, arena.v, k, v, [7, 8, 3], 2)
    assert torch.equal(arenas[0].k.nan_to_num(), arenas[1].k.nan_to_num())
    assert torch.equal(arenas[0].v.nan_to_num(), arenas[1].v.nan_to_num())
