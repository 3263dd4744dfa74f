"""Clean estimate and next noise level of one chunk's latents; bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch

from shotstream_rt.bench.kernel_case import KernelCase
from shotstream_rt.kernels.reference.renoise import renoise
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet

SIGMAS = (1.0, 0.7375886)


def bench_to_x0(case: KernelCase, kernels: KernelSet) -> None:
    x, flow = (case.normal(*case.shapes.latent_shape) for _ in range(2))
    case.measure(
        lambda: kernels.to_x0(x, flow, SIGMAS[1]),
        REFERENCE.to_x0(x.float(), flow.float(), SIGMAS[1]),
        bytes_moved=3 * x.nbytes,
        flops=2 * x.numel(),
    )


def bench_renoise(case: KernelCase, load_kernel: Callable[[str], ModuleType]) -> None:
    x0, noise = (case.normal(*case.shapes.latent_shape) for _ in range(2))
    module = load_kernel("renoise")
    case.measure(
        lambda: module.renoise(x0, noise, SIGMAS[1]),
        renoise(x0.float(), noise.float(), SIGMAS[1]),
        bytes_moved=3 * x0.nbytes,
        flops=3 * x0.numel(),
    )


def bench_advance(case: KernelCase, kernels: KernelSet) -> None:
    x, flow, noise = (case.normal(*case.shapes.latent_shape) for _ in range(3))
    sigmas = torch.tensor(SIGMAS, dtype=torch.float64, device=case.device)
    wide = [z.float() for z in (x, flow, noise)]
    case.measure(
        lambda: kernels.advance(x, flow, noise, sigmas, 0),
        REFERENCE.advance(*wide, sigmas, 0),
        bytes_moved=5 * x.nbytes,
        flops=5 * x.numel(),
    )
