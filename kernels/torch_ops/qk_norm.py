"""RMS norm through torch's fused form."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Like ``kernels.reference.qk_norm.rms_norm``; rounded once instead of twice."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)
