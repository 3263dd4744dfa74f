"""Write a chunk's keys and values into the planned slots of the arena."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def kv_append(
    arena_k: Tensor, arena_v: Tensor, k: Tensor, v: Tensor, slots: Sequence[int], frame_tokens: int
) -> None:
    """Copy frame ``i`` of ``k`` and ``v`` into arena slot ``slots[i]``, in place.

    Args:
        arena_k: ``[slots * frame_tokens, N, D]``.
        arena_v: like ``arena_k``.
        k: ``[len(slots) * frame_tokens, N, D]``.
        v: like ``k``.
        slots: arena slot of each latent frame; neighbours are written in one copy.
        frame_tokens: tokens per latent frame.
    """
    first = 0
    while first < len(slots):
        last = first + 1
        while last < len(slots) and slots[last] == slots[last - 1] + 1:
            last += 1
        source = slice(first * frame_tokens, last * frame_tokens)
        target = slice(slots[first] * frame_tokens, (slots[last - 1] + 1) * frame_tokens)
        arena_k[target] = k[source]
        arena_v[target] = v[source]
        first = last
