"""Write a chunk's keys and values into the planned slots of a token-major arena.

Arena ``[slots * frame_tokens, N, D]``, k and v ``[frames * frame_tokens, N, D]`` at any token
stride. One program per token; slots are read on the device, so a captured launch serves every
plan. Bound by memory: each number is read and written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..tuning import arena_row_stride, block_of, on_device, row_warps


@triton.jit
@no_type_check
def slot_row(SLOTS, token, frame_tokens):
    """Arena row of one of the chunk's tokens; device code.

    Args:
        SLOTS: pointer to the int32 arena slot of each latent frame.
        token: number of the token within the chunk.
        frame_tokens: tokens per latent frame.
    """
    slot = tl.load(SLOTS + token // frame_tokens).to(tl.int64)
    return slot * frame_tokens + token % frame_tokens


@triton.jit
@no_type_check
def _kv_append_kernel(
    K, V, ARENA_K, ARENA_V, SLOTS, frame_tokens, k_stride, v_stride, arena_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    row, token = slot_row(SLOTS, token, frame_tokens), token.to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    k = tl.load(K + token * k_stride + column, mask=inside)
    v = tl.load(V + token * v_stride + column, mask=inside)
    tl.store(ARENA_K + row * arena_stride + column, k, mask=inside)
    tl.store(ARENA_V + row * arena_stride + column, v, mask=inside)


def kv_append(
    arena_k: Tensor,
    arena_v: Tensor,
    k: Tensor,
    v: Tensor,
    slots: Sequence[int] | Tensor,
    frame_tokens: int,
) -> None:
    """Like ``kernels.reference.kv_append.kv_append``.

    Args:
        arena_k: ``[slots * frame_tokens, N, D]``, token-major in memory.
        arena_v: like ``arena_k``, with the same strides.
        k: ``[frames * frame_tokens, N, D]``, at any token stride.
        v: like ``k``.
        slots: arena slot of each latent frame; as int32 on the device, nothing is copied from the
            host.
        frame_tokens: tokens per latent frame.

    Raises:
        ValueError: the arena is not token-major.
    """
    stride = arena_row_stride(arena_k, arena_v)
    width = k.shape[-2] * k.shape[-1]
    k, v = k.reshape(-1, width), v.reshape(-1, width)
    run_kernel(
        _kv_append_kernel, (k.shape[0],),
        k, v, arena_k, arena_v, on_device(slots, torch.int32, k.device), frame_tokens,
        k.stride(0), v.stride(0), stride,
        WIDTH=width, BLOCK=block_of(width), num_warps=row_warps(width),
    )  # fmt: skip
