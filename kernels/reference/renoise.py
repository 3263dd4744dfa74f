"""From predicted flow to the clean estimate, and from there to the next noise level.

to_x0(x_t, v)   = x_t - sigma * v                        (float64, rounded once)
renoise(x0, n)  = (1 - sigma) * x0 + sigma * n           (float32, rounded once)
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_x0(x_t: Tensor, flow: Tensor, sigma: Tensor | float) -> Tensor:
    """Clean estimate of a noisy latent; any shape, the type of ``flow``.

    Args:
        x_t: noisy latents, any shape.
        flow: predicted flow, like ``x_t``.
        sigma: noise level in [0, 1], broadcastable to ``flow``.
    """
    if isinstance(sigma, Tensor):
        sigma = sigma.double()
    return (x_t.double() - sigma * flow.double()).to(flow.dtype)


def to_flow(x_t: Tensor, x0: Tensor, sigma: Tensor | float) -> Tensor:
    """Inverse of ``to_x0``: ``(x_t - x0) / sigma`` in float64.

    Args:
        x_t: noisy latents, any shape.
        x0: clean latents, like ``x_t``.
        sigma: noise level above 0, broadcastable to ``x_t``.
    """
    if isinstance(sigma, Tensor):
        sigma = sigma.double()
    return ((x_t.double() - x0.double()) / sigma).to(x_t.dtype)


def renoise(x0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Mix noise into a clean latent; any shape, the type of ``noise``.

    Args:
        x0: clean latents, any shape.
        noise: standard normal, like ``x0``.
        sigma: noise level in [0, 1], broadcastable to ``x0``.
    """
    sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x0.device)
    return ((1 - sigma) * x0.float() + sigma * noise.float()).to(noise.dtype)


def advance(
    x_t: Tensor, flow: Tensor, noise: Tensor, sigmas: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """Finish one denoising step and start the next.

    Args:
        x_t: noisy latents, any shape.
        flow: like ``x_t``.
        noise: like ``x_t``, what the next step's level is made with.
        sigmas: float64 ``[S]``, noise level of every step.
        step: the step just run, below ``S - 1``.

    Returns:
        The clean estimate, and that estimate at the level of step ``step + 1``; like ``x_t``.
    """
    x0 = to_x0(x_t, flow, sigmas[step])
    return x0, renoise(x0, noise, sigmas[step + 1])
