"""From predicted flow to the clean estimate and on to the next noise level, in one pass.

    x0   = x_t - sigma * flow                       float64, rounded once
    next = (1 - sigma') * x0 + sigma' * noise       float32, rounded once

Latents are dense, any shape. Bound by launch latency: a chunk's latents are 0.3 million numbers.
Compiled without fused multiply-add, so that results equal the host's.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..tuning import on_device

BLOCK = 1024
"""Numbers of one program."""


@triton.jit
@no_type_check
def _clean(X, FLOW, sigma, element, inside):
    x = tl.load(X + element, mask=inside, other=0.0).to(tl.float64)
    flow = tl.load(FLOW + element, mask=inside, other=0.0).to(tl.float64)
    # Narrow types are rounded by way of float32, as torch does.
    return (x - sigma * flow).to(tl.float32).to(FLOW.dtype.element_ty)


@triton.jit(do_not_specialize_on_alignment=["SIGMAS"])
@no_type_check
def _to_x0_kernel(X, FLOW, SIGMAS, X0, count, group, BLOCK: tl.constexpr):
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < count
    sigma = tl.load(SIGMAS + element // group, mask=inside, other=0.0)
    tl.store(X0 + element, _clean(X, FLOW, sigma, element, inside), mask=inside)


@triton.jit
@no_type_check
def _mix(x0, noise, sigma):
    level = sigma.to(tl.float32)
    return (1.0 - level) * x0.to(tl.float32) + level * noise.to(tl.float32)


@triton.jit(do_not_specialize_on_alignment=["SIGMAS"])
@no_type_check
def _renoise_kernel(X0, NOISE, SIGMAS, OUT, count, group, BLOCK: tl.constexpr):
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < count
    sigma = tl.load(SIGMAS + element // group, mask=inside, other=0.0)
    x0 = tl.load(X0 + element, mask=inside, other=0.0)
    noise = tl.load(NOISE + element, mask=inside, other=0.0)
    tl.store(OUT + element, _mix(x0, noise, sigma).to(OUT.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["step"])
@no_type_check
def _advance_kernel(X, FLOW, NOISE, SIGMAS, X0, OUT, step, count, BLOCK: tl.constexpr):
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < count
    x0 = _clean(X, FLOW, tl.load(SIGMAS + step), element, inside)
    tl.store(X0 + element, x0, mask=inside)
    noise = tl.load(NOISE + element, mask=inside, other=0.0)
    mixed = _mix(x0, noise, tl.load(SIGMAS + step + 1))
    tl.store(OUT + element, mixed.to(OUT.dtype.element_ty), mask=inside)


def to_x0(x_t: Tensor, flow: Tensor, sigma: Tensor | float) -> Tensor:
    """Like ``kernels.reference.renoise.to_x0``; levels vary on leading axes only.

    Args:
        x_t: noisy latents, any shape.
        flow: predicted flow, like ``x_t``.
        sigma: noise level in [0, 1]: a number, or one per entry of some leading axes.
    """
    x_t, flow = x_t.contiguous(), flow.contiguous()
    levels, group = _levels(sigma, flow)
    out = torch.empty_like(flow)
    run_kernel(
        _to_x0_kernel, (triton.cdiv(flow.numel(), BLOCK),),
        x_t, flow, levels, out, flow.numel(), group, BLOCK=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def renoise(x0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Like ``kernels.reference.renoise.renoise``; levels vary on leading axes only.

    Args:
        x0: clean latents, any shape.
        noise: standard normal, like ``x0``.
        sigma: noise level in [0, 1]: a number, or one per entry of some leading axes.
    """
    x0, noise = x0.contiguous(), noise.contiguous()
    levels, group = _levels(sigma, noise)
    out = torch.empty_like(noise)
    run_kernel(
        _renoise_kernel, (triton.cdiv(noise.numel(), BLOCK),),
        x0, noise, levels, out, noise.numel(), group, BLOCK=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def advance(
    x_t: Tensor, flow: Tensor, noise: Tensor, sigmas: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """Like ``kernels.reference.renoise.advance``; nothing is read from the host.

    Args:
        x_t: noisy latents, any shape.
        flow: predicted flow, like ``x_t``.
        noise: standard normal, like ``x_t``; enters the next step's input.
        sigmas: float64 ``[S]``, noise level of every step.
        step: the step just run, below ``S - 1``.
    """
    x_t, flow, noise = x_t.contiguous(), flow.contiguous(), noise.contiguous()
    x0, out = torch.empty_like(flow), torch.empty_like(flow)
    run_kernel(
        _advance_kernel, (triton.cdiv(flow.numel(), BLOCK),),
        x_t, flow, noise, sigmas, x0, out, step, flow.numel(), BLOCK=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    return x0, out


def _levels(sigma: Tensor | float, like: Tensor) -> tuple[Tensor, int]:
    """Levels as float64 on the device, and how many elements share one.

    Raises:
        ValueError: levels that vary on an axis after one on which they do not.
    """
    given = sigma if isinstance(sigma, Tensor) else float(sigma)
    levels = on_device(given, torch.float64, like.device)
    count = levels.numel()
    if count == 1:
        return levels.reshape(1), like.numel()
    axes = range(like.dim() + 1)
    leading = next((n for n in axes if like.shape[:n].numel() == count), 0)
    if tuple(levels.shape) != (*like.shape[:leading], *[1] * (like.dim() - leading)):
        raise ValueError(
            f"sigma: got shape {tuple(levels.shape)}, wanted a scalar or the leading axes of "
            f"{tuple(like.shape)} followed by ones"
        )
    return levels.contiguous(), like.numel() // count
