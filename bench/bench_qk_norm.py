"""RMS norm of a chunk's queries; bound by memory."""

from __future__ import annotations

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet


def bench_rms_norm(case: KernelCase, kernels: KernelSet) -> None:
    # As in a block: the queries are a third of the fused projection's rows.
    q = case.normal(1, case.shapes.tokens, 3 * case.shapes.dim).chunk(3, -1)[0]
    weight = case.normal(case.shapes.dim)
    case.measure(
        lambda: kernels.rms_norm(q, weight, 1e-6),
        REFERENCE.rms_norm(q.float(), weight.float(), 1e-6),
        bytes_moved=2 * q.numel() * q.element_size(),
        flops=4 * q.numel(),
    )
