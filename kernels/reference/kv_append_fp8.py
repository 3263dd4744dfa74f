"""Write a chunk's keys and values into the planned slots of an 8-bit arena."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .dual_attention_fp8 import key_rows, quantise


def kv_append_fp8(
    arena_k: Tensor, arena_v: Tensor, k: Tensor, v: Tensor, k_scales: Tensor, v_scales: Tensor,
    slots: Sequence[int], frame_tokens: int,
) -> None:  # fmt: skip
    """Round frame ``i`` of ``k`` and ``v`` to e4m3 and write it to slot ``slots[i]``, in place.

    Args:
        arena_k: e4m3 ``[rows, N, D]`` in the row order of ``dual_attention_fp8``; ``rows`` at least
            the tokens of all slots rounded up to 16.
        arena_v: e4m3 ``[N, D, tokens]``.
        k: ``[len(slots) * frame_tokens, N, D]``.
        v: like ``k``.
        k_scales: float32 ``[N]``.
        v_scales: float32 ``[N]``.
        slots: arena slot of each latent frame.
        frame_tokens: tokens per latent frame.
    """
    starts = torch.tensor(list(slots), device=k.device)[:, None] * frame_tokens
    token = (starts + torch.arange(frame_tokens, device=k.device)).flatten()
    rows = key_rows(arena_k.shape[0], k.device)[token]
    # torch moves 8-bit floating numbers by index as bytes only.
    arena_k.view(torch.uint8)[rows] = quantise(k, k_scales).view(torch.uint8)
    values = quantise(v, v_scales).view(torch.uint8)
    arena_v.view(torch.uint8)[:, :, token] = values.permute(1, 2, 0)
