"""Linear layers on e4m3 rows through the library's scaled product (cuBLAS or CUTLASS).

    y[t, n] = scale[t] * weight_scale[n] * sum_k values[t, k] * weight[n, k] + bias[n]

Weights ``[out, in]`` in e4m3, packed once: half the bytes of bfloat16, twice the arithmetic rate.
Bound by arithmetic. Scales per row and column are applied to the sums, in the epilogue.

There is no GELU in the epilogue. The next product wants one scale per row, which no tile knows
before the whole row is computed, so the row has to go to memory in a wider type anyway, and
``fp8_rows.gelu_quantise`` reads it once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..reference.fp8_linear import quantise_weight
from ..reference.fp8_rows import Fp8Rows
from ..reference.linear import side_by_side
from . import fp8_rows
from .fp8_support import row_scales_unavailable_reason

ALIGNMENT = 16
"""Widths must be multiples of this: a row is read 16 bytes at a time."""

FAST_ACCUMULATION = True
"""Whether tensor cores keep partial sums in their own narrower form along the whole inner axis."""


class ScaledLinear:
    """One product ``[..., in] -> [..., out]`` on tensor cores, weight in e4m3.

    Args:
        weight: ``[out, in]``; quantised here, its type is that of the result.
        bias: ``[out]``.
        gelu: apply the tanh approximation of GELU and quantise the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        packed, self._dtype = quantise_weight(weight), weight.dtype
        # Transposed views: the library wants both factors dense along the inner axis.
        self.weight, self.weight_scale = packed.values.t(), packed.scale.t().contiguous()
        self.bias, self.gelu = bias, gelu
        self._in_epilogue = self._dtype in (torch.bfloat16, torch.float16)

    @property
    def nbytes(self) -> int:
        """Bytes of weight, scales and bias."""
        return self.weight.nbytes + self.weight_scale.nbytes + self.bias.nbytes

    def __call__(self, x: Tensor | Fp8Rows) -> Tensor | Fp8Rows:
        """Multiply ``[..., in]``, quantised or not (then it is quantised first)."""
        rows = x if isinstance(x, Fp8Rows) else fp8_rows.quantise_rows(x)
        shape = rows.values.shape[:-1]
        y: Tensor = torch._scaled_mm(
            rows.values.reshape(-1, rows.values.shape[-1]),
            self.weight,
            scale_a=rows.scale.reshape(-1, 1),
            scale_b=self.weight_scale,
            bias=self.bias if self._in_epilogue else None,
            out_dtype=self._dtype,
            use_fast_accum=FAST_ACCUMULATION,
        )
        if not self._in_epilogue:
            y = y + self.bias
        y = y.unflatten(0, shape)
        return fp8_rows.gelu_quantise(y) if self.gelu else y


def fuse_linear(layers: Sequence[nn.Linear], gelu: bool = False) -> ScaledLinear:
    """Like ``kernels.reference.fp8_linear.fuse_linear``.

    Args:
        layers: linear layers of equal input width; outputs are concatenated in this order.
        gelu: apply the tanh approximation of GELU and quantise the result.

    Raises:
        ValueError: a width that is not a multiple of 16.
        RuntimeError: this torch has no such product on the layers' device.
    """
    weight, bias = side_by_side(layers)
    if weight.shape[0] % ALIGNMENT or weight.shape[1] % ALIGNMENT:
        raise ValueError(
            f"fp8 linear: got {weight.shape[1]} inputs and {weight.shape[0]} outputs, wanted "
            f"multiples of {ALIGNMENT}; use a profile without fp8"
        )
    if (reason := row_scales_unavailable_reason(weight.device)) is not None:
        raise RuntimeError(f"fp8 linear: {reason}; on a CPU, torch 2.13 does")
    return ScaledLinear(weight.detach(), bias.detach(), gelu=gelu)
