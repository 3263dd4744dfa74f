"""Why a device, or the torch at hand, cannot multiply e4m3 numbers."""

from __future__ import annotations

from functools import cache

import torch

from ..tuning import FP8_CAPABILITY, capability_of


def fp8_unavailable_reason(device: torch.device) -> str | None:
    """Return why a device cannot multiply e4m3 numbers, or ``None``; a CPU emulates it."""
    if device.type != "cuda":
        return None
    capability = capability_of(torch.empty(0, device=device))
    if capability < FP8_CAPABILITY:
        return f"sm_{capability} has no e4m3 numbers, which came with sm_{FP8_CAPABILITY}"
    return None


@cache
def row_scales_unavailable_reason(device: torch.device) -> str | None:
    """Return why torch cannot scale a product of e4m3 rows there, or ``None``, by trying one."""
    rows = torch.zeros(16, 16, dtype=torch.float8_e4m3fn, device=device)
    scale = torch.ones(16, 1, device=device)
    try:
        torch._scaled_mm(rows, rows.t(), scale_a=scale, scale_b=scale.t(), out_dtype=torch.bfloat16)
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        return f"torch {torch.__version__} does not scale e4m3 products by rows on {device}: {said}"
    return None
