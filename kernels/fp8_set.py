"""The part ``fp8`` of a kernel set: linear layers on e4m3 rows, quantised by what makes the rows.

Norms in front of a linear layer and the GELU give rows, attention's result is quantised where a
layer takes it. Everything else (attention, residuals, the head) stays as it was.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from .kernel_set import KernelSet
from .tuning import FP8_CAPABILITY, capability_of


def fp8_unavailable_reason(device: torch.device) -> str | None:
    """Return why a device cannot multiply e4m3 numbers, or ``None``; a CPU imitates it."""
    if device.type != "cuda":
        return None
    capability = capability_of(torch.empty(0, device=device))
    if capability < FP8_CAPABILITY:
        return f"sm_{capability} has no e4m3 numbers, which came with sm_{FP8_CAPABILITY}"
    return None


@cache
def row_scales_unavailable_reason(device: torch.device) -> str | None:
    """Return why torch cannot scale a product of e4m3 rows there, or ``None``: it is tried."""
    rows = torch.zeros(16, 16, dtype=torch.float8_e4m3fn, device=device)
    scale = torch.ones(16, 1, device=device)
    try:
        torch._scaled_mm(rows, rows.t(), scale_a=scale, scale_b=scale.t(), out_dtype=torch.bfloat16)
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        return f"torch {torch.__version__} does not scale e4m3 products by rows on {device}: {said}"
    return None


def with_fp8(kernels: KernelSet) -> KernelSet:
    """Replace the linear layers of a set and what stands in front of them.

    Beside Triton's kernels these are fused ones on tensor cores. Beside any other set they are the
    reference twins: the same numbers on any device, slower than without; for measuring quality.
    """
    if kernels.name.partition("+")[0] == "triton":
        from . import fp8_linear, fp8_rows

        fuse_linear = fp8_linear.fuse_linear
        layer_norm = fp8_rows.layer_norm_quantise
        gated_residual_norm = fp8_rows.gated_residual_norm_quantise
    else:
        from .reference import fp8_linear as plain_linear
        from .reference import fp8_rows as plain_rows

        fuse_linear = plain_linear.fuse_linear
        layer_norm = plain_rows.layer_norm_quantise
        gated_residual_norm = plain_rows.gated_residual_norm_quantise
    return replace(
        kernels,
        name=f"{kernels.name}+fp8",
        fuse_linear=fuse_linear,
        layer_norm=layer_norm,
        gated_residual_norm=gated_residual_norm,
    )
