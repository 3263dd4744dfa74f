"""Attention in which every head reads its own spans of the arena, on sm_90 in bfloat16.

    out[h] = softmax(scale * q[h] k[spans of h]^T) v[spans of h]

What ``history_attention`` computes, by ``hopper_attention``. A program's work is its head's number
of keys; heads with the most keys come first, and the short ones fill the last wave. q, k, v
``[1, T, N, 128]``, heads of a token side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..reference.history_attention import Spans
from .hopper_launch import SPANS, launch_attention
from .span_table import span_table


def history_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, spans: Sequence[Spans]
) -> Tensor:
    """Like ``kernels.reference.history_attention.history_attention``.

    Args:
        q: bfloat16 ``[1, Tq, N, 128]``.
        k: bfloat16 ``[1, Tk, N, 128]``, the valid prefix.
        v: like ``k``.
        scale: positive factor on the logits.
        spans: per head, the half-open ranges of keys it reads; at most 3.

    Raises:
        ValueError: a scale that is not positive, not one entry per head, a span outside of the
            keys, or operands that the kernel cannot read.
    """
    if k.shape != v.shape:
        raise ValueError(f"v: got shape {tuple(v.shape)}, wanted that of k, {tuple(k.shape)}")
    keys = k.shape[1]
    table = span_table(spans, q.shape[2], keys, q.device)
    return launch_attention(SPANS, q, k, v, keys, scale, table=table)
