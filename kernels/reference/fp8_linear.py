"""Linear layers on e4m3 rows: one scale per token, one per output channel.

    y[t, n] = scale[t] * weight_scale[n] * sum_k values[t, k] * weight[n, k] + bias[n]

Weights are quantised once, when a model is opened, and held in e4m3; sums are in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fp8_rows import Fp8Rows, gelu_quantise, quantise_rows
from .linear import side_by_side

_ROWS_AT_A_TIME = 1024


class Fp8Linear:
    """One product ``[..., in] -> [..., out]`` on a weight in e4m3.

    Args:
        weight: ``[out, in]``; quantised here, its type is that of the result.
        bias: ``[out]``.
        gelu: apply the tanh approximation of GELU and quantise the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self.rows, self.bias, self.gelu = quantise_weight(weight), bias, gelu
        self._dtype = weight.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of weight, scales and bias."""
        return self.rows.values.nbytes + self.rows.scale.nbytes + self.bias.nbytes

    def __call__(self, x: Tensor | Fp8Rows) -> Tensor | Fp8Rows:
        """Multiply ``[..., in]``, quantised or not (then it is quantised first).

        The weight is widened in every call: slow, but only its 8 bits are held.
        """
        rows = x if isinstance(x, Fp8Rows) else quantise_rows(x)
        y = F.linear(rows.dequantise(), self.rows.dequantise(), self.bias.float()).to(self._dtype)
        return gelu_quantise(y) if self.gelu else y


def quantise_weight(weight: Tensor) -> Fp8Rows:
    """Do ``quantise_rows`` of ``[out, in]`` some rows at a time.

    The same numbers, without a float32 copy of all rows, which would take four times the result.
    """
    values = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    scale = torch.empty(len(weight), 1, device=weight.device)
    parts = (x.split(_ROWS_AT_A_TIME) for x in (weight, values, scale))
    for rows, own_values, own_scale in zip(*parts, strict=True):
        quantised = quantise_rows(rows)
        own_values.copy_(quantised.values)
        own_scale.copy_(quantised.scale)
    return Fp8Rows(values, scale)


def fuse_linear(layers: Sequence[nn.Linear], gelu: bool = False) -> Fp8Linear:
    """Quantise the weights of layers that read the same input, and fuse them.

    Args:
        layers: linear layers of equal input width; outputs are concatenated in this order.
        gelu: apply the tanh approximation of GELU and quantise the result.

    Returns:
        A function of ``[..., in]``, quantised or not, that gives ``[..., sum(out)]`` in the
        weights' type, or rows with GELU. Not differentiable.
    """
    weight, bias = side_by_side(layers)
    return Fp8Linear(weight.detach(), bias.detach(), gelu=gelu)
