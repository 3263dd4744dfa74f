"""A fused projection's norms, rotation and cache write, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from .dual_attention_fp8 import quantise
from .kv_append import kv_append
from .kv_append_fp8 import kv_append_fp8
from .qk_norm import rms_norm
from .rope_shot import rotate

Norm: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]


def qkv_append(
    qkv: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    table: Tensor,
    arena_k: Tensor,
    arena_v: Tensor,
    slots: Sequence[int],
    frame_tokens: int,
    eps: float,
    rotate_key: bool,
    *,
    norm: Norm = rms_norm,
) -> Tensor:
    """Normalise and rotate queries; store keys and values, in place.

    Args:
        qkv: ``[T, 3 * dim]``, queries | keys | values of a chunk.
        weight_q: ``[dim]``, factors of the queries' RMS norm.
        weight_k: ``[dim]``, factors of the keys' RMS norm.
        table: complex64 ``[T, D / 2]``, see ``rope_shot.rotation``.
        arena_k: ``[slots * frame_tokens, N, D]``.
        arena_v: like ``arena_k``.
        slots: arena slot of each of the chunk's latent frames.
        frame_tokens: tokens per latent frame.
        eps: added to the mean square.
        rotate_key: store keys rotated; otherwise as normalised.
        norm: another form of ``qk_norm.rms_norm``.

    Returns:
        Rotated queries ``[T, N, D]``.
    """
    q, k, v = _parts(qkv, weight_q, weight_k, table, arena_k.shape[1], eps, rotate_key, norm)
    kv_append(arena_k, arena_v, k, v, slots, frame_tokens)
    return q


def qkv_append_qk8(
    qkv: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    table: Tensor,
    arena_k: Tensor,
    arena_v: Tensor,
    k_scales: Tensor,
    slots: Sequence[int],
    frame_tokens: int,
    eps: float,
    rotate_key: bool,
    *,
    norm: Norm = rms_norm,
) -> Tensor:
    """Do the same with an arena whose keys are in 8 bits.

    Args:
        qkv: as there.
        weight_q: as there.
        weight_k: as there.
        table: as there.
        arena_k: e4m3 ``[slots * frame_tokens, N, D]``.
        arena_v: of this shape, in the type of ``qkv``.
        k_scales: float32 ``[N]``; a head's stored keys times its scale are its keys.
        slots: as there.
        frame_tokens: as there.
        eps: as there.
        rotate_key: as there.
        norm: as there.

    Returns:
        Rotated queries ``[T, N, D]``, in the type of ``qkv``.
    """
    q, k, v = _parts(qkv, weight_q, weight_k, table, arena_k.shape[1], eps, rotate_key, norm)
    kv_append(arena_k, arena_v, quantise(k, k_scales), v, slots, frame_tokens)
    return q


def qkv_append_fp8(
    qkv: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    table: Tensor,
    arena_k: Tensor,
    arena_v: Tensor,
    k_scales: Tensor,
    v_scales: Tensor,
    slots: Sequence[int],
    frame_tokens: int,
    eps: float,
    rotate_key: bool,
    *,
    norm: Norm = rms_norm,
) -> Tensor:
    """Do the same with an arena that is in 8 bits altogether.

    Args:
        qkv: as there.
        weight_q: as there.
        weight_k: as there.
        table: as there.
        arena_k: e4m3 ``[rows, N, D]``, see ``kv_append_fp8``.
        arena_v: e4m3 ``[N, D, tokens]``.
        k_scales: float32 ``[N]``; a head's stored keys times its scale are its keys.
        v_scales: float32 ``[N]``, likewise.
        slots: as there.
        frame_tokens: as there.
        eps: as there.
        rotate_key: as there.
        norm: as there.

    Returns:
        Rotated queries ``[T, N, D]``, in the type of ``qkv``.
    """
    q, k, v = _parts(qkv, weight_q, weight_k, table, arena_k.shape[1], eps, rotate_key, norm)
    kv_append_fp8(arena_k, arena_v, k, v, k_scales, v_scales, slots, frame_tokens)
    return q


def _parts(
    qkv: Tensor, weight_q: Tensor, weight_k: Tensor, table: Tensor, heads: int, eps: float,
    rotate_key: bool, norm: Norm,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Queries, keys and values ``[T, N, D]``, ready to be attended with and stored."""
    q, k, v = qkv.chunk(3, -1)
    q = rotate(norm(q, weight_q, eps).unflatten(-1, (heads, -1)), table)
    k = norm(k, weight_k, eps).unflatten(-1, (heads, -1))
    return q, rotate(k, table) if rotate_key else k, v.unflatten(-1, (heads, -1))
