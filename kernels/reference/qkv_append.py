"""A fused projection's norms, rotation and cache write, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .kv_append import kv_append
from .qk_norm import rms_norm
from .rope_shot import rotate


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
    norm: Callable[[Tensor, Tensor, float], Tensor] = rms_norm,
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
    q, k, v = qkv.chunk(3, -1)
    heads = (arena_k.shape[1], arena_k.shape[2])
    turned = rotate(norm(q, weight_q, eps).unflatten(-1, heads), table)
    keys = norm(k, weight_k, eps).unflatten(-1, heads)
    keys = rotate(keys, table) if rotate_key else keys
    kv_append(arena_k, arena_v, keys, v.unflatten(-1, heads), slots, frame_tokens)
    return turned
