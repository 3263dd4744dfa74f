from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.cache import KVArena
from shotstream_rt.kernels.kernel_set import KernelSet

Draw = Callable[..., Tensor]
CAPACITY, HEADS, WIDTH = 9, 2, 5


@pytest.mark.parametrize("frame_tokens", [1, 7])
@pytest.mark.parametrize(
    "slots", [[4], [0, 1, 2], [8, 6, 7], [7, 8, 3], [5, 2, 6]],
    ids=["one", "start", "wrapped", "sink", "scattered"],
)  # fmt: skip
def test_only_planned_slots_are_written(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, slots: list[int], frame_tokens: int
) -> None:
    arena = KVArena(
        CAPACITY * frame_tokens, HEADS, WIDTH, head_major=kernels.head_major, dtype=dtype,
        device=torch.device("cpu"),
    )  # fmt: skip
    arena.k.fill_(torch.nan)
    arena.v.fill_(torch.nan)
    k, v = (normal(len(slots) * frame_tokens, HEADS, WIDTH, dtype=dtype) for _ in range(2))
    kernels.kv_append(arena.k, arena.v, k, v, slots, frame_tokens)
    for stored, given in ((arena.k, k), (arena.v, v)):
        frames = stored.unflatten(0, (CAPACITY, frame_tokens))
        for index, slot in enumerate(slots):
            wanted = given[index * frame_tokens : (index + 1) * frame_tokens]
            assert torch.equal(frames[slot], wanted)
        untouched = [slot for slot in range(CAPACITY) if slot not in slots]
        assert bool(frames[untouched].isnan().all())


def test_a_later_pass_overwrites(kernels: KernelSet, normal: Draw) -> None:
    arena = KVArena(
        6, HEADS, WIDTH, head_major=kernels.head_major, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    first, second = normal(4, HEADS, WIDTH), normal(4, HEADS, WIDTH)
    for keys in (first, second):
        kernels.kv_append(arena.k, arena.v, keys, keys, [1, 2], 2)
    assert torch.equal(arena.k[2:], second)
