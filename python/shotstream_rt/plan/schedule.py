"""The few-step flow-matching schedule: grid, warped steps, lookups and loss weights.

Host-side tables only; the per-element maths is ``kernels/renoise``. Every value is float32, as in
the original. Source: ShotStream ``utils/scheduler.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..config import ScheduleConfig

GRID_SIZE = 1000
"""Entries of the training grid."""

CLEAN, COMMIT = -2, -1
"""Indices into ``Schedule.levels`` of frames that are known, at time 0, and of clean passes."""


class Level(NamedTuple):
    """The noise level of a frame in a pass.

    Attributes:
        time: that the network is told, in [0, 1000].
        sigma: share of noise, in [0, 1].
        step: the denoising step of its chunk that has this level.
        last: no step follows in that chunk.
    """

    time: float
    sigma: float
    step: int
    last: bool


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Tables of one schedule.

    Attributes:
        grid_sigmas: float32 ``[1000]``, falling from 1.
        grid_timesteps: float32 ``[1000]``, ``1000 * sigma``.
        timesteps: the student's denoising times, highest first, in [0, 1000].
        sigmas: the noise level looked up for each of ``timesteps``.
        commit_timestep: time of the clean pass.
        levels: every level that passes have: of ``timesteps``, then of a first chunk with steps of
            its own, then ``CLEAN`` and ``COMMIT``.
    """

    grid_sigmas: Tensor
    grid_timesteps: Tensor
    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    commit_timestep: float
    levels: tuple[Level, ...]

    @classmethod
    def from_config(cls, config: ScheduleConfig) -> Schedule:
        """Tabulate a configuration."""
        grid_sigmas = shifted(_levels(GRID_SIZE), config.shift)
        grid_timesteps = grid_sigmas * 1000
        commit = float(config.context_noise)
        levels: list[Level] = []
        for steps in (config.denoising_steps, config.first_steps):
            times = _times(grid_timesteps, steps, warp=config.warp)
            sigmas = grid_sigmas[nearest(grid_timesteps, times)]
            pairs = enumerate(zip(times.tolist(), sigmas.tolist(), strict=True), 1)
            levels += [Level(t, sigma, n - 1, n == len(steps)) for n, (t, sigma) in pairs]
        levels += [Level(0.0, 0.0, 0, True), Level(commit, 0.0, 0, True)]
        usual = levels[: config.num_steps]
        return cls(
            grid_sigmas=grid_sigmas,
            grid_timesteps=grid_timesteps,
            timesteps=tuple(level.time for level in usual),
            sigmas=tuple(level.sigma for level in usual),
            commit_timestep=commit,
            levels=tuple(levels),
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


def _levels(steps: int) -> Tensor:
    """Even noise levels from 1 down to, and without, 0; float32 ``[steps]``."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float32, device="cpu")[:-1]


def _times(grid: Tensor, steps: Sequence[float], *, warp: bool) -> Tensor:
    """Timesteps of nominal steps, float32 ``[S]``.

    Args:
        grid: timesteps of the training grid.
        steps: falling.
        warp: look them up in the grid; else they are timesteps as they stand.
    """
    if not warp:
        return torch.tensor(steps, dtype=torch.float32, device="cpu")
    nominal = torch.tensor([int(step) for step in steps], dtype=torch.long, device="cpu")
    # A raw step n names grid entry 1000 - n; step 0 would be the end of the grid.
    end = torch.zeros(1, dtype=torch.float32, device="cpu")
    return torch.cat([grid, end])[GRID_SIZE - nominal]


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
    sigmas = shifted(_levels(steps), shift)
    return sigmas, sigmas * 1000
