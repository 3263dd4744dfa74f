"""The part ``fp8`` of a kernel set: linear layers on e4m3 rows.

The norms before linear layers and the GELU return quantised rows; attention's result is quantised
by the linear layer that reads it. Everything else (attention, residuals, the head) stays as it was.
"""

from __future__ import annotations

from dataclasses import replace

from .kernel_set import FuseLinear, KernelSet


def with_fp8(kernels: KernelSet) -> KernelSet:
    """Replace the linear layers of a set and the norms before them.

    Beside Triton's kernels these are fused ones on tensor cores. Beside any other set they are the
    reference twins: the same numbers on any device, slower than without; for measuring quality.
    """
    fuse_linear: FuseLinear
    if kernels.name.partition("+")[0] == "triton":
        from ..gpu import fp8_linear, fp8_rows

        fuse_linear = fp8_linear.fuse_linear
        layer_norm = fp8_rows.layer_norm_quantise
        gated_residual_norm = fp8_rows.gated_residual_norm_quantise
    else:
        from ..reference import fp8_linear as plain_linear
        from ..reference import fp8_rows as plain_rows

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
