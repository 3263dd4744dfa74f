"""The steps of a pass through torch's fused calls: what CPUs run, and any other device.

Each function is another form of the reference of its name, with the same arguments, and is rounded
no more often. One row of factors, offsets and gates mostly serves all tokens; passes whose frames
have different times have a row for each frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reference.kv_append import kv_append


def layer_norm(x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> Tensor:
    """See ``reference.adaln.layer_norm``; arguments as there."""
    if factor.shape[1] > 1:
        return _scale_frames(offset, F.layer_norm(x, x.shape[-1:], eps=eps), factor)
    return F.layer_norm(x, x.shape[-1:], factor.view(-1), offset.view(-1), eps)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """See ``reference.adaln.gated_residual``; arguments as there."""
    return _scale_frames(x, y, gate) if gate.shape[1] > 1 else torch.addcmul(x, y, gate)


def _scale_frames(x: Tensor, y: Tensor, factors: Tensor) -> Tensor:
    """Return ``x + y * factors``, a row ``[B, F, dim]`` for each frame; ``x`` may have that too."""
    frames = factors.shape[1]
    x, y = x.unflatten(1, (frames, -1)), y.unflatten(1, (frames, -1))
    return torch.addcmul(x, y, factors.unsqueeze(2)).flatten(1, 2)


def gated_residual_norm(
    x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, offset: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See ``reference.adaln.gated_residual_norm``; arguments as there."""
    total = x + y if gate is None else gated_residual(x, y, gate)
    return total, layer_norm(total, factor, offset, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``reference.qk_norm.rms_norm``; arguments as there."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """See ``reference.rope_shot``."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table.unsqueeze(-2)).flatten(-2).to(x.dtype)


def qkv_append(
    qkv: Tensor, weight_q: Tensor, weight_k: Tensor, table: Tensor, arena_k: Tensor,
    arena_v: Tensor, slots: Sequence[int], frame_tokens: int, eps: float, rotate_key: bool,
) -> Tensor:  # fmt: skip
    """See ``reference.qkv_append.qkv_append``; arguments as there."""
    heads = (arena_k.shape[1], -1)
    q, k, v = qkv.chunk(3, -1)
    q = rotate(rms_norm(q, weight_q, eps).unflatten(-1, heads), table)
    k, v = rms_norm(k, weight_k, eps).unflatten(-1, heads), v.unflatten(-1, heads)
    if rotate_key:
        k = rotate(k, table)
    if any(after != before + 1 for before, after in pairwise(slots)):
        kv_append(arena_k, arena_v, k, v, slots, frame_tokens)
    else:
        place = slice(slots[0] * frame_tokens, (slots[-1] + 1) * frame_tokens)
        arena_k[place], arena_v[place] = k, v
    return q


def dual_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """See ``reference.dual_attention.dual_attention``; no logits are kept in memory.

    Args:
        q: ``[B, Tq, N, D]``.
        k: ``[B, Tk, N, D]``.
        v: like ``k``.
        scale: factor on the logits.
        bias: added to the logits in the type of ``q``, broadcastable to ``[B, N, Tq, Tk]``.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = None if bias is None else bias.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)


def to_x0(x_t: Tensor, flow: Tensor, sigma: Tensor | float) -> Tensor:
    """See ``reference.renoise.to_x0``; arguments as there."""
    return (x_t.double() - sigma * flow.double()).to(flow.dtype)


def advance(
    x_t: Tensor, flow: Tensor, noise: Tensor, sigmas: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """See ``reference.renoise.advance``; arguments as there."""
    x0, level = to_x0(x_t, flow, sigmas[step]), sigmas[step + 1].float()
    return x0, ((1 - level) * x0.float() + level * noise.float()).to(noise.dtype)
