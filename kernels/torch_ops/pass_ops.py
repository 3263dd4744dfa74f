"""The small steps of a pass through torch's fused calls: what CPUs run, and any other device.

Each function is another form of the reference of its name, with the same arguments, and is rounded
no more often. One row of factors, offsets and gates mostly serves all tokens; passes whose frames
have different times have a row for each frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm(x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> Tensor:
    """See ``reference.adaln.layer_norm``; arguments as there.

    One pass over memory where one row serves all tokens.
    """
    width, frames = x.shape[-1], factor.shape[1]
    if frames == 1:
        return F.layer_norm(x, (width,), factor.view(width), offset.view(width), eps)
    normed = F.layer_norm(x, (width,), eps=eps).unflatten(1, (frames, -1))
    return torch.addcmul(offset.unsqueeze(2), normed, factor.unsqueeze(2)).flatten(1, 2)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """See ``reference.adaln.gated_residual``; arguments as there."""
    frames = gate.shape[1]
    if frames == 1:
        return torch.addcmul(x, y, gate)
    x, y = x.unflatten(1, (frames, -1)), y.unflatten(1, (frames, -1))
    return torch.addcmul(x, y, gate.unsqueeze(2)).flatten(1, 2)


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
    """See ``reference.qkv_append.qkv_append``; arguments as there.

    Neighbouring slots are written in one copy.
    """
    q, k, v = qkv.unflatten(-1, (3, -1)).unbind(-2)
    heads = (arena_k.shape[1], -1)
    q = rotate(rms_norm(q, weight_q, eps).unflatten(-1, heads), table)
    k = rms_norm(k, weight_k, eps).unflatten(-1, heads)
    if rotate_key:
        k = rotate(k, table)
    first, v = 0, v.unflatten(-1, heads)
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] != slots[end - 1] + 1:
            begin, count = slots[first] * frame_tokens, (end - first) * frame_tokens
            source = slice(first * frame_tokens, end * frame_tokens)
            arena_k[begin : begin + count], arena_v[begin : begin + count] = k[source], v[source]
            first = end
    return q


def to_x0(x_t: Tensor, flow: Tensor, sigma: Tensor | float) -> Tensor:
    """See ``reference.renoise.to_x0``; arguments as there."""
    return (x_t.double() - sigma * flow.double()).to(flow.dtype)


def advance(
    x_t: Tensor, flow: Tensor, noise: Tensor, sigmas: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """See ``reference.renoise.advance``; arguments as there."""
    x0, level = to_x0(x_t, flow, sigmas[step]), sigmas[step + 1].float()
    return x0, ((1 - level) * x0.float() + level * noise.float()).to(noise.dtype)
