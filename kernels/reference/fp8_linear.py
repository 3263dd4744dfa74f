"""Linear layers on e4m3 rows: one scale per token, one per output channel.

    y[t, n] = scale[t] * weight_scale[n] * sum_k values[t, k] * weight[n, k] + bias[n]

Weights are quantised once, when a model is opened; sums are in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fp8_rows import Fp8Rows, gelu_quantise, quantise_rows


def fuse_linear(
    layers: Sequence[nn.Linear], gelu: bool = False
) -> Callable[[Tensor | Fp8Rows], Tensor | Fp8Rows]:
    """Quantise the weights of layers that read the same input, and fuse them.

    Args:
        layers: linear layers of equal input width; outputs are concatenated in this order.
        gelu: apply the tanh approximation of GELU and quantise the result.

    Returns:
        A function of ``[..., in]``, quantised or not (then it is quantised first), that gives
        ``[..., sum(out)]`` in the weights' type, or rows with GELU. Not differentiable.
    """
    weight = torch.cat([layer.weight.detach() for layer in layers])
    factor, dtype = quantise_rows(weight).dequantise(), weight.dtype
    bias = torch.cat([layer.bias.detach() for layer in layers]).float()

    def apply(x: Tensor | Fp8Rows) -> Tensor | Fp8Rows:
        rows = x if isinstance(x, Fp8Rows) else quantise_rows(x)
        y = F.linear(rows.dequantise(), factor, bias).to(dtype)
        return gelu_quantise(y) if gelu else y

    return apply
