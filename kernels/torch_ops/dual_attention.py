"""Attention through torch's ``scaled_dot_product_attention``, to compare with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
