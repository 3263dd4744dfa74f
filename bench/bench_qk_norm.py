"""RMS norm of a chunk's queries; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.kernels.kernel_set import REFERENCE, KernelSet

if TYPE_CHECKING:
    from .conftest import Shapes


def bench_rms_norm(
    kernels: KernelSet,
    shapes: Shapes,
    dtype: torch.dtype,
    normal: Callable[..., Tensor],
    measure: Callable[..., None],
) -> None:
    # As in a block: the queries are a third of the fused projection's rows.
    q = normal(1, shapes.tokens, 3 * shapes.dim, dtype=dtype).chunk(3, -1)[0]
    weight = normal(shapes.dim, dtype=dtype)
    measure(
        lambda: kernels.rms_norm(q, weight, 1e-6),
        REFERENCE.rms_norm(q.float(), weight.float(), 1e-6),
        bytes_moved=2 * q.numel() * q.element_size(),
        flops=4 * q.numel(),
    )
