"""Training times and how states are noised; called by the stages."""

from __future__ import annotations

import torch
from torch import Tensor

from shotstream_rt.plan.schedule import GRID_SIZE, Schedule

from ..common.step_rng import StepRng


def draw_levels(
    schedule: Schedule, rng: StepRng, count: int, *, rounded: bool, low: float = 0.0,
    high: float = 1000.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Draw a time per sample, uniform over the grid, clamped.

    Args:
        schedule: the grid.
        rng: random numbers.
        count: samples.
        rounded: round times to bfloat16, as the original does.
        low: lowest time.
        high: highest time.

    Returns:
        Times ``[count]`` in [low, high] and the noise level of each, on the host.
    """
    times = schedule.grid_timesteps[rng.indices(count, GRID_SIZE)]
    if rounded:
        times = times.bfloat16().float()
    times = times.clamp(low, high)
    levels = schedule.sigma_at(times)
    return times, levels


def per_sample(value: Tensor) -> Tensor:
    """``[B]`` to ``[B, 1, 1, 1, 1]``."""
    return value[:, None, None, None, None]


def mix(clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """Return ``(1 - sigma) clean + sigma noise`` with a level per sample.

    Args:
        clean: ``[B, F, C, h, w]``.
        noise: alike.
        levels: sigma, broadcasting to both.
    """
    level = per_sample(levels.to(clean.device))
    return (1 - level) * clean + level * noise


def clean_of(noisy: Tensor, flow: Tensor, levels: Tensor) -> Tensor:
    """Return the clean state a flow points to: ``x - sigma v``.

    Args:
        noisy: ``[B, F, C, h, w]``.
        flow: predicted at ``noisy``, alike.
        levels: sigma, broadcasting to both.
    """
    return noisy - per_sample(levels.to(noisy.device)) * flow


def mean_square(value: Tensor) -> Tensor:
    """Mean square per sample, float32 ``[B]``."""
    return torch.as_tensor(value.float().square().flatten(1).mean(1))
