"""Attention in bfloat16 by the native core, where AVX-512 multiplies bfloat16 fast.

All heads in one call that holds no lock of the interpreter: by torch's operations it takes thirty,
and where two threads compute halves of a pass each of them waits for the other one's. Logits are
float32 and stay in the cache (``runtime/include/shotstream/attention.h``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._native import attend_bfloat16

_WIDTH_STEP = 32


def fits_heads(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    """Tell whether ``attend`` takes these on a CPU that has its products; they are as for it."""
    width = q.shape[-1]
    rows = all(x.stride(-1) == 1 and x.dtype == torch.bfloat16 for x in (q, k, v))
    plain = bias is None or (bias.dtype == torch.float32 and bias.shape == k.shape[1:2])
    return rows and plain and len(q) == 1 and width % _WIDTH_STEP == 0


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """Like ``reference.dual_attention.dual_attention``, weights rounded to bfloat16.

    Args:
        q: ``[1, Tq, N, D]``, ``D`` a multiple of 32.
        k: ``[1, Tk, N, D]``.
        v: like ``k``.
        scale: factor on the logits.
        bias: float32 ``[Tk]``, added to the logits.
    """
    out = q.new_empty(q.shape)
    added = None if bias is None else bias.contiguous()
    _, rows, heads, width = q.shape
    attend_bfloat16(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), 0 if added is None else added.data_ptr(),
        out.data_ptr(), scale, (rows, k.shape[1], heads, width),
        q.stride()[1:3], k.stride()[1:3], v.stride()[1:3], out.stride()[1:3],
    )  # fmt: skip
    return out
