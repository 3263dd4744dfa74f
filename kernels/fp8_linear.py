"""Linear layers on e4m3 rows through the library's scaled product (cuBLAS or CUTLASS).

    y[t, n] = scale[t] * weight_scale[n] * sum_k values[t, k] * weight[n, k] + bias[n]

Weights ``[out, in]`` in e4m3, packed once: half the bytes of bfloat16, twice the arithmetic rate.
Bound by arithmetic. Scales per row and column are applied behind the sums, in the epilogue.

There is no GELU in the epilogue on purpose. The next product wants one scale per row, which no
tile knows before the whole row is there, so the widened row goes to memory either way and
``fp8_rows.gelu_quantise`` reads it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from . import fp8_rows
from .fp8_set import row_scales_unavailable_reason
from .reference import fp8_rows as reference
from .reference.fp8_rows import Fp8Rows

ALIGNMENT = 16
"""Widths must be multiples of this: a row is read 16 bytes at a time."""

FAST_ACCUMULATION = True
"""Whether tensor cores keep partial sums in their own, narrower form over the whole inner axis."""


def fuse_linear(
    layers: Sequence[nn.Linear], gelu: bool = False
) -> Callable[[Tensor | Fp8Rows], Tensor | Fp8Rows]:
    """Like ``kernels.reference.fp8_linear.fuse_linear``.

    Raises:
        ValueError: a width that is not a multiple of 16.
        RuntimeError: this torch has no such product on the layers' device.
    """
    weight = torch.cat([layer.weight.detach() for layer in layers])
    if weight.shape[0] % ALIGNMENT or weight.shape[1] % ALIGNMENT:
        raise ValueError(
            f"fp8 linear: got {weight.shape[1]} inputs and {weight.shape[0]} outputs, wanted "
            f"multiples of {ALIGNMENT}; use a profile without fp8"
        )
    if (reason := row_scales_unavailable_reason(weight.device)) is not None:
        raise RuntimeError(f"fp8 linear: {reason}; on a CPU, torch 2.13 does")
    packed, dtype = reference.quantise_rows(weight), weight.dtype
    # Transposed views: the library wants the inner axis of both factors side by side.
    factor, factor_scale = packed.values.t(), packed.scale.t().contiguous()
    bias = torch.cat([layer.bias.detach() for layer in layers]).to(dtype)
    in_epilogue = dtype in (torch.bfloat16, torch.float16)

    def apply(x: Tensor | Fp8Rows) -> Tensor | Fp8Rows:
        rows = x if isinstance(x, Fp8Rows) else fp8_rows.quantise_rows(x)
        shape = rows.values.shape[:-1]
        y: Tensor = torch._scaled_mm(
            rows.values.reshape(-1, rows.values.shape[-1]),
            factor,
            scale_a=rows.scale.reshape(-1, 1),
            scale_b=factor_scale,
            bias=bias if in_epilogue else None,
            out_dtype=dtype,
            use_fast_accum=FAST_ACCUMULATION,
        )
        if not in_epilogue:
            y = y + bias
        y = y.unflatten(0, shape)
        return fp8_rows.gelu_quantise(y) if gelu else y

    return apply
