"""What stands between the convolutions of a decoder, at its largest layer; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference import rms_silu as reference

CHANNELS = 96


def frames_of(case: KernelCase) -> Tensor:
    """A chunk's frames at full size: four of a latent, 16 pixels square of a token."""
    shapes = case.shapes
    return case.normal(4 * shapes.frames, 16 * shapes.rows, 16 * shapes.columns, CHANNELS)


@pytest.mark.parametrize("residual", [False, True], ids=["inner", "outer"])
def bench_rms_silu(
    case: KernelCase, load_kernel: Callable[[str], ModuleType], residual: bool
) -> None:
    """Norm and SiLU of a chunk's frames.

    Args:
        case: see ``KernelCase``.
        load_kernel: gives each form of the kernel in turn.
        residual: whether other frames are added first.
    """
    h, gamma, bias = frames_of(case), case.normal(CHANNELS), case.normal(CHANNELS)
    x = case.normal(*h.shape) if residual else None
    past = case.normal(2, *h.shape[1:])
    out = h.new_empty(len(h) + 2, *h.shape[1:])
    wanted = torch.empty(out.shape, device=out.device)
    # Not kept: a run must not change what the next one reads.
    reference.rms_silu(h.float(), gamma, bias, x, past.float(), wanted, False, True)
    kernel = load_kernel("rms_silu").rms_silu

    def run() -> Tensor:
        kernel(h, gamma, bias, x, past, out, False, True)
        return out[2:]

    moved = (2 + residual) * h.nbytes + 3 * past.nbytes
    case.measure(run, wanted[2:], bytes_moved=moved, flops=8 * h.numel())


def bench_add_bias(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    h, bias = frames_of(case), case.normal(CHANNELS)
    x, out = case.normal(*h.shape), torch.empty_like(h)
    wanted = torch.empty(h.shape, device=h.device)
    reference.add_bias(h, bias, x, wanted, True)
    kernel = load_kernel("rms_silu").add_bias

    def run() -> Tensor:
        kernel(h, bias, x, out, True)
        return out

    case.measure(run, wanted, bytes_moved=3 * h.nbytes, flops=3 * h.numel())
