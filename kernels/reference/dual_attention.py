"""Attention of one chunk's queries over the valid prefix of the dual cache.

    out = softmax(scale * q k^T + key_bias) v

The order of keys does not matter, so ``[context | sink | window | own chunk]`` is one dense call
without a mask. The same function serves cross-attention, where ``key_bias`` is the log of how many
equal padding keys one key stands for.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dual_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Attend.

    Args:
        q: ``[B, Tq, N, D]``.
        k: ``[B, Tk, N, D]``, the valid prefix only.
        v: like ``k``.
        scale: factor on the logits.
        bias: added to the logits, broadcastable to ``[B, N, Tq, Tk]``; ``-inf`` hides a key.

    Returns:
        ``[B, Tq, N, D]`` in the type of ``q``; softmax and sums in float32 or wider.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    logits = torch.einsum("bqnd,bknd->bnqk", q.to(wide), k.to(wide)) * scale
    if bias is not None:
        logits = logits + bias
    return torch.einsum("bnqk,bknd->bqnd", logits.softmax(-1), v.to(wide)).to(q.dtype)
