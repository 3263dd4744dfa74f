"""Attention in which every head reads its own spans of the arena.

    out[h] = softmax(scale * q[h] k[spans of h]^T) v[spans of h]

Some heads attend to the context and the last frames only, and need not read the rest. With the
spans of a ``HistoryPolicy`` this is pruned history; with one span over all keys it is
``dual_attention``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .dual_attention import dual_attention

Spans: TypeAlias = Sequence[tuple[int, int]]
"""Half-open ranges of keys, in rising order, not touching; at least one key in all."""


def history_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, spans: Sequence[Spans]
) -> Tensor:
    """Attend.

    Args:
        q: ``[B, Tq, N, D]``.
        k: ``[B, Tk, N, D]``, the valid prefix.
        v: like ``k``.
        scale: factor on the logits.
        spans: per head, the keys it reads.

    Returns:
        ``[B, Tq, N, D]`` in the type of ``q``.
    """
    return attend_by_spans(dual_attention, q, k, v, scale, spans)


def attend_by_spans(
    attention: Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    spans: Sequence[Spans],
) -> Tensor:
    """Do the same with a dense attention, called once for all heads with equal spans.

    Args:
        attention: a dense attention of ``q``, ``k``, ``v``, scale and bias, such as
            ``reference.dual_attention``.
        q: ``[B, Tq, N, D]``.
        k: ``[B, Tk, N, D]``, the valid prefix.
        v: like ``k``.
        scale: factor on the logits.
        spans: per head, the keys it reads.
    """
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for head, own in enumerate(spans):
        groups.setdefault(tuple(own), []).append(head)
    out = torch.empty_like(q)
    for own, heads in groups.items():
        keys, values = (
            torch.cat([x[:, begin:end, heads] for begin, end in own], 1) for x in (k, v)
        )
        out[:, :, heads] = attention(q[:, :, heads], keys, values, scale, None)
    return out
