"""Attention over keys, or keys and values, kept in 8 bits (e4m3: 3 bits of mantissa, up to 448).

    out = softmax(scale * (q8 s_q) (k8 s_k)^T) (v8 s_v)

One scale per head for keys and one for values: e4m3 is a floating type, so a scale has to keep the
largest number below 448 and nothing more; numbers down to 2^-15 of it lose no relative precision.
Scales are fixed when weights are loaded, from bounds (``key_scales``, ``value_scales``): keys come
from a norm, values from a product of one. Queries get a scale per row, in the kernel, from their
own largest number.

``dual_attention_qk8`` keeps values in bfloat16. ``dual_attention_fp8`` keeps all of it in 8 bits,
as matrix units want it: values transposed, ``[N, D, tokens]``, and the key of token ``j`` in row
``key_rows(j)``. That order, an exchange within groups of sixteen, makes each thread compute the
very weights that it needs for the second product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .dual_attention import dual_attention

E4M3_MAX = 448.0
_HEADROOM = 2.0**8
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


def key_scales(weight: Tensor, heads: int) -> Tensor:
    """Scale per head that no key of an RMS norm can overflow, rotated or not.

    A normalised row of ``dim`` numbers has the norm ``sqrt(dim)`` at most, so a key's numbers are
    within ``sqrt(dim) * max|weight|`` of its head; a rotation turns pairs and makes none longer.

    Args:
        weight: ``[dim]``, factors of the keys' norm over all heads.
        heads: how many share the row.

    Returns:
        float32 ``[N]``.
    """
    factors = weight.detach().float().abs().view(heads, -1).amax(-1)
    return (factors * math.sqrt(weight.numel())).clamp(min=1e-12) / E4M3_MAX


def value_reach(layer: nn.Linear, heads: int) -> Tensor:
    """Say how far a layer that makes values carries its input.

    Args:
        layer: of ``dim`` outputs, all heads side by side.
        heads: how many.

    Returns:
        float32 ``[2, N]``: the largest norm of a head's weight rows, and its largest bias.
    """
    norms: Tensor = layer.weight.detach().float().norm(dim=-1)
    rows = torch.stack([norms, layer.bias.detach().float().abs()])
    return rows.view(2, heads, -1).amax(-1)


def value_scales(reach: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """Scale per head that no value can overflow, up to rounding.

    Values are products of ``h = LN(x) * factor + offset`` with weight rows, and ``LN(x)`` has the
    norm ``sqrt(dim)`` at most: ``|v| <= |row| (sqrt(dim) max|factor| + |offset|) + |bias|``. A
    bound some hundred times above the values would cost nothing; see the module.

    Args:
        reach: of ``value_reach``.
        factor: ``[..., dim]``, all that the norm is ever multiplied with.
        offset: likewise, what is added.

    Returns:
        float32 ``[N]``.
    """
    largest: Tensor = factor.float().abs().amax() * math.sqrt(factor.shape[-1])
    longest: Tensor = largest + offset.float().norm(dim=-1).amax()
    return (reach[0] * longest + reach[1]).clamp(min=1e-12) / E4M3_MAX


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
    """Attend in 8 bits throughout: weights are rounded to e4m3 as well, their sum is not.

    Weights are kept times 2^8, so that those down to 2^-17 of the largest are not lost. Kernels
    measure from the largest logit so far, this from the largest of all, so the last bits differ.

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
    summed, total = _weighed(q, k, v, keys, scale, k_scales)
    return (summed * v_scales[:, None] / total[..., None]).to(q.dtype)


def dual_attention_fp8_out(
    q: Tensor, k: Tensor, v: Tensor, keys: int, scale: float, k_scales: Tensor, v_shares: Tensor
) -> Tensor:
    """Attend as ``dual_attention_fp8``, and leave the result in e4m3 for the next linear layer.

    It lies between values, so it is within 448 in units of their scale. All heads are given in
    units of the largest scale, which is then one for all tokens.

    Args:
        q: as there, as are ``k``, ``v``, ``keys``, ``scale`` and ``k_scales``.
        v_shares: float32 ``[N]``, scales of the values over the largest of them.

    Returns:
        e4m3 ``[1, Tq, N, D]``; times the largest scale it is the result.
    """
    summed, total = _weighed(q, k, v, keys, scale, k_scales)
    return quantise(summed / total[..., None], 1 / v_shares)


def _weighed(
    q: Tensor, k: Tensor, v: Tensor, keys: int, scale: float, k_scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums of stored values by their weights ``[1, Tq, N, D]``, and of weights ``[1, Tq, N]``."""
    wide_k = k[:, key_rows(keys, k.device)].float() * k_scales[:, None]
    logits = torch.einsum("bqnd,bknd->bnqk", rounded_queries(q), wide_k) * scale
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    rounded = (weights * _HEADROOM).to(torch.float8_e4m3fn).float() / _HEADROOM
    summed = torch.einsum("bnqk,ndk->bqnd", rounded, v[:, :, :keys].float())
    return summed, weights.sum(-1).transpose(1, 2)


def rounded_queries(q: Tensor) -> Tensor:
    """Queries as e4m3 holds them, each row by its largest number; float32, like ``q``."""
    scales = q.float().abs().amax(-1).clamp(min=1e-12) / E4M3_MAX
    return quantise(q, scales).float() * scales[..., None]
