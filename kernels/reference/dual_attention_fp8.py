"""Attention over keys, or keys and values, kept in 8 bits (e4m3: 3 bits of mantissa, up to 448).

    out = softmax(scale * (q8 s_q) (k8 s_k)^T) (v8 s_v)

One scale per head for keys and one for values: e4m3 is a floating type, so a scale has to keep the
largest number below 448 and nothing more; numbers down to 2^-15 of it lose no relative precision.
Keys come from a norm, ``|k| <= sqrt(dim) max|weight|``, so theirs can be fixed when weights are
loaded. Queries get a scale per row, in the kernel, from their own largest number.

``dual_attention_qk8`` keeps values in bfloat16. ``dual_attention_fp8`` keeps all of it in 8 bits,
as matrix units want it: values transposed, ``[N, D, tokens]``, and the key of token ``j`` in row
``key_rows(j)``, an exchange within groups of sixteen under which the weights that a thread computes
are those it multiplies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dual_attention import dual_attention

E4M3_MAX = 448.0
KEY_GROUP = 16
"""Tokens within which rows of keys are exchanged."""


def head_scales(x: Tensor) -> Tensor:
    """Scale per head under which the largest number becomes 448.

    Args:
        x: ``[..., N, D]``.

    Returns:
        float32 ``[N]``.
    """
    largest = x.float().abs().amax(-1).reshape(-1, x.shape[-2]).amax(0)
    return largest.clamp(min=1e-12) / E4M3_MAX


def quantise(x: Tensor, scales: Tensor) -> Tensor:
    """Round ``x / scales`` to the nearest e4m3; what is beyond 448 becomes 448.

    Args:
        x: ``[..., N, D]``.
        scales: ``[N]``, or anything else that broadcasts to ``[..., N]``.
    """
    scaled = x.float() / scales[..., None]
    return scaled.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def key_rows(tokens: int, device: torch.device | None = None) -> Tensor:
    """Row of each token's key in an 8-bit arena, int64 ``[tokens]``, within its sixteen."""
    token = torch.arange(tokens, device=device)
    within = token % KEY_GROUP
    return token - within + within % 4 // 2 * 8 + within // 4 * 2 + within % 2


def arena_of(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Lay keys and values out as ``dual_attention_fp8`` reads them, zeros where no token is.

    Args:
        k: e4m3 ``[T, N, D]``, a row to a token.
        v: like ``k``.

    Returns:
        Keys ``[1, rows, N, D]`` and values ``[N, D, rows]``, ``rows`` the next multiple of 16.
    """
    tokens, heads, width = k.shape
    rows = -(-tokens // KEY_GROUP) * KEY_GROUP
    keys = torch.zeros(1, rows, heads, width, dtype=torch.uint8, device=k.device)
    values = torch.zeros(heads, width, rows, dtype=torch.uint8, device=k.device)
    # torch moves 8-bit floating numbers by index as bytes only.
    keys[0, key_rows(tokens, k.device)] = k.view(torch.uint8)
    values[:, :, :tokens] = v.view(torch.uint8).permute(1, 2, 0)
    return keys.view(k.dtype), values.view(v.dtype)


def dual_attention_qk8(q: Tensor, k: Tensor, v: Tensor, scale: float, k_scales: Tensor) -> Tensor:
    """Attend with 8-bit logits and weights and values as they are.

    Args:
        q: ``[B, Tq, N, D]``.
        k: e4m3 ``[B, Tk, N, D]``.
        v: ``[B, Tk, N, D]`` in the type of ``q``.
        scale: factor on the logits.
        k_scales: float32 ``[N]``.

    Returns:
        ``[B, Tq, N, D]`` in the type of ``q``.
    """
    return dual_attention(rounded_queries(q), k.float() * k_scales[:, None], v, scale).to(q.dtype)


def dual_attention_fp8(
    q: Tensor, k: Tensor, v: Tensor, keys: int, scale: float, k_scales: Tensor, v_scales: Tensor
) -> Tensor:
    """Attend in 8 bits throughout; weights are not rounded here, which is what tolerances are for.

    Args:
        q: ``[1, Tq, N, D]``.
        k: e4m3 ``[1, rows, N, D]``, token ``j`` in row ``key_rows(j)``; ``rows`` at least ``keys``
            rounded up to 16. Rows of no token may hold anything.
        v: e4m3 ``[N, D, tokens]``, at least ``keys`` tokens; later ones may hold anything.
        keys: tokens to attend to.
        scale: factor on the logits.
        k_scales: float32 ``[N]``.
        v_scales: float32 ``[N]``.

    Returns:
        ``[1, Tq, N, D]`` in the type of ``q``.
    """
    wide_k = k[:, key_rows(keys, k.device)].float() * k_scales[:, None]
    wide_v = v[None, :, :, :keys].permute(0, 3, 1, 2).float() * v_scales[:, None]
    return dual_attention(rounded_queries(q), wide_k, wide_v, scale).to(q.dtype)


def rounded_queries(q: Tensor) -> Tensor:
    """Queries as e4m3 holds them, each row by its largest number; float32, like ``q``."""
    scales = q.float().abs().amax(-1).clamp(min=1e-12) / E4M3_MAX
    return quantise(q, scales).float() * scales[..., None]
