"""The few-step flow-matching schedule: grid, warped steps, lookups and loss weights.

Host-side tables only; the per-element maths is ``kernels/renoise``. Every value is float32, as in
the original. Source: spec of ShotStream's ``utils/scheduler.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .config import ScheduleConfig

GRID_SIZE = 1000
"""Entries of the training grid."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Tables of one schedule.

    Attributes:
        grid_sigmas: float32 ``[1000]``, falling from 1.
        grid_timesteps: float32 ``[1000]``, ``1000 * sigma``.
        timesteps: the student's denoising times, highest first, in [0, 1000].
        sigmas: the noise level looked up for each of ``timesteps``.
        commit_timestep: time of the clean pass.
    """

    grid_sigmas: Tensor
    grid_timesteps: Tensor
    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    commit_timestep: float

    @classmethod
    def from_config(cls, config: ScheduleConfig) -> Schedule:
        """Tabulate a configuration."""
        grid_sigmas = shifted(torch.linspace(1, 0, GRID_SIZE + 1)[:-1], config.shift)
        grid_timesteps = grid_sigmas * 1000
        if config.warp:
            nominal = torch.tensor([int(step) for step in config.denoising_steps])
            # A raw step n names grid entry 1000 - n; step 0 would be the end of the grid.
            times = torch.cat([grid_timesteps, torch.zeros(1)])[GRID_SIZE - nominal]
        else:
            times = torch.tensor(config.denoising_steps, dtype=torch.float32)
        indices = nearest(grid_timesteps, times)
        return cls(
            grid_sigmas=grid_sigmas,
            grid_timesteps=grid_timesteps,
            timesteps=tuple(times.tolist()),
            sigmas=tuple(grid_sigmas[indices].tolist()),
            commit_timestep=float(config.context_noise),
        )

    def lookup(self, times: Tensor) -> Tensor:
        """Index of the grid entry nearest to each time, the first one on ties.

        Args:
            times: any shape, in [0, 1000].
        """
        return nearest(self.grid_timesteps, times)

    def sigma_at(self, times: Tensor) -> Tensor:
        """Noise level of the nearest grid entry, float32, the shape of ``times``."""
        return self.grid_sigmas[self.lookup(times)]

    def loss_weights(self) -> Tensor:
        """Bell-shaped training weights over the grid, float32 ``[1000]``, mean 1."""
        bell = torch.exp(-2 * ((self.grid_timesteps - GRID_SIZE / 2) / GRID_SIZE) ** 2)
        bell = bell - bell.min()
        return bell * (GRID_SIZE / bell.sum())


def shifted(u: Tensor, shift: float) -> Tensor:
    """Warp uniform noise levels: ``shift * u / (1 + (shift - 1) * u)``."""
    return shift * u / (1 + (shift - 1) * u)


def nearest(grid: Tensor, times: Tensor) -> Tensor:
    """Index into ``grid`` of the entry nearest to each of ``times``, the first one on ties."""
    distance = (grid - times.to(grid).unsqueeze(-1)).abs()
    return distance.argmin(-1)


def euler_grid(steps: int, shift: float) -> tuple[Tensor, Tensor]:
    """Sigmas and timesteps of an ordinary multi-step sampler (the teacher's), float32 ``[steps]``.

    The level after the last one is 0.
    """
    sigmas = shifted(torch.linspace(1, 0, steps + 1)[:-1], shift)
    return sigmas, sigmas * 1000
