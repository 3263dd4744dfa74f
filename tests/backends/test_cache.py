"""What slots of a film's caches held is kept and put back."""

from __future__ import annotations

import pytest
import torch

from shotstream_rt.backends.cache import DualKVCache
from shotstream_rt.config import ModelConfig
from shotstream_rt.kernels.sets.arena_layout import ArenaLayout

MODEL = ModelConfig(
    dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=4, latent_height=2,
    latent_width=4,
)  # fmt: skip
SLOTS = 5


def cache(head_major: bool = False) -> DualKVCache:
    made = DualKVCache(
        MODEL, SLOTS, layout=ArenaLayout(head_major=head_major), dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    fill(made, 0)
    return made


def fill(made: DualKVCache, number: float) -> None:
    """Write a number of its own to every row of every layer."""
    for layer, arena in enumerate(made.arenas):
        for part in (arena.k, arena.v):
            rows = torch.arange(len(part), dtype=torch.float32).view(-1, 1, 1)
            part.copy_((1000 * number + 100 * layer + rows).expand(part.shape))


def held(made: DualKVCache) -> list[torch.Tensor]:
    return [part.clone() for arena in made.arenas for part in (arena.k, arena.v)]


@pytest.mark.parametrize("head_major", [False, True])
@pytest.mark.parametrize("slots", [None, [1, 3]])
def test_what_was_kept_is_put_back_and_nothing_else(
    slots: list[int] | None, head_major: bool
) -> None:
    made = cache(head_major)
    before, rows = held(made), made.frame_tokens
    kept = made.keep(slots)
    fill(made, 1)
    changed = held(made)
    kept()
    for part, old, new in zip(held(made), before, changed, strict=True):
        for slot in range(SLOTS):
            own = slice(slot * rows, (slot + 1) * rows)
            wanted = old if slots is None or slot in slots else new
            assert torch.equal(part[own], wanted[own])


def test_memory_is_lent_again_only_when_what_was_kept_is_gone() -> None:
    made = cache()
    before = held(made)
    first, second = made.keep([0]), made.keep([1])
    fill(made, 1)
    dropped, wider = made.keep([2]), made.keep([2, 3])
    place = dropped._copies[0].untyped_storage().data_ptr()
    del dropped
    third = made.keep([4])
    assert third._copies[0].untyped_storage().data_ptr() == place
    assert len(made._lender) == 4
    fill(made, 2)
    for kept in (first, second, wider, third):
        kept()
    fill(made, 0)
    assert all(torch.equal(*pair) for pair in zip(held(made), before, strict=True))
    made.close()
    assert not made.arenas and not len(made._lender)


def test_memory_that_is_lent_again_does_not_change_what_is_kept_elsewhere() -> None:
    made, rows = cache(), MODEL.tokens_per_frame
    kept = {}
    for number in range(12):
        kept.pop(number - 3, None)
        fill(made, number)
        kept[number] = made.keep([number % SLOTS])
    assert len(made._lender) == 3
    for number, put_back in kept.items():
        fill(made, 99)
        put_back()
        slot = number % SLOTS
        assert float(made.arenas[1].v[slot * rows, 0, 0]) == 1000 * number + 100 + slot * rows
