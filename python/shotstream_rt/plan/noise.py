"""Noise as a function of its address (shot, chunk, step), not of a generator's state.

``PhiloxNoise`` gives the same numbers for an address on every backend, so one chunk can be made
again alone; ``RecordedNoise`` plays back tensors for parity tests. ``PassNoise`` draws what the
passes of a plan take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from .._native import philox_normal
from ..device.transfer import send
from ..errors import ConfigError
from ..kernels.reference.noise import noise_address
from ..kernels.reference.renoise import renoise
from ..kernels.sets.kernel_set import triton_unavailable_reason
from .schedule import Schedule

if TYPE_CHECKING:
    from ..config import ScheduleConfig
    from .pass_plan import PassPlan

HOST = torch.device("cpu")


class NoiseSource(Protocol):
    """Standard normal noise of a film."""

    def draw(
        self, shot: int, chunk: int, step: int, shape: Sequence[int], device: torch.device = HOST
    ) -> Tensor:
        """Noise for one use.

        Args:
            shot: shot number.
            chunk: chunk within the shot.
            step: denoising step whose input it enters; 0 is the chunk's starting noise.
            shape: of the latents, ``[1, F, C, h, w]``.
            device: where it is wanted; the numbers are the same everywhere.

        Returns:
            float32 on ``device``.
        """
        ...


@dataclass(frozen=True, slots=True)
class PhiloxNoise:
    """Counter-based noise: Philox4x32-10 keyed by the seed and addressed by its use.

    Drawn on the device where it is wanted: by the native core on the host, by a kernel on a GPU.

    Attributes:
        seed: integer in [0, 2**64).
    """

    seed: int

    def draw(
        self, shot: int, chunk: int, step: int, shape: Sequence[int], device: torch.device = HOST
    ) -> Tensor:
        """See ``NoiseSource.draw``; arguments as there."""
        if device.type != "cpu":
            address = send(noise_address(self.seed, shot, chunk, HOST), device)
            return _kernel()(address, step, math.prod(shape)).view(tuple(shape))
        values = np.empty(tuple(shape), dtype=np.float32)
        philox_normal(values.reshape(-1), self.seed, shot, chunk, step)
        return torch.from_numpy(values)


@cache
def _kernel() -> Callable[[Tensor, int, int], Tensor]:
    """The form of ``addressed_normal`` for devices; both have the same bits."""
    if triton_unavailable_reason() is None:
        from ..kernels.gpu.noise import addressed_normal

        return addressed_normal
    from ..kernels.reference import noise

    return noise.addressed_normal


class RecordedNoise:
    """Noise played back from tensors.

    Args:
        initial: per shot ``[1, shot_frames, C, h, w]``.
        renoise: per shot ``[chunks * (steps - 1), F, C, h, w]`` in order of use.
        steps: denoising steps per chunk.
    """

    def __init__(self, initial: Sequence[Tensor], renoise: Sequence[Tensor], steps: int) -> None:
        self._initial, self._renoise, self._draws = list(initial), list(renoise), steps - 1

    def draw(
        self, shot: int, chunk: int, step: int, shape: Sequence[int], device: torch.device = HOST
    ) -> Tensor:
        """See ``NoiseSource.draw``.

        Args:
            shot: shot number.
            chunk: chunk within the shot.
            step: denoising step; 0 plays from ``initial``, later ones from ``renoise``.
            shape: ``[1, F, C, h, w]``; only ``F`` is read.
            device: where the noise is wanted.

        Raises:
            ConfigError: a shot that was not recorded.
        """
        if shot >= len(self._initial):
            raise ConfigError(f"RecordedNoise: got shot {shot}, wanted < {len(self._initial)}")
        frames = shape[1]
        if step == 0:
            played = self._initial[shot][:, chunk * frames : (chunk + 1) * frames]
        else:
            played = self._renoise[shot][chunk * self._draws + step - 1].unsqueeze(0)
        return send(played.float(), device)


class PassNoise:
    """What enters the inputs of a plan's passes: one buffer, filled anew for every plan.

    Args:
        schedule: steps and noise levels.
        shape: of the latents of the largest plan, ``(1, F, C, h, w)``.
        dtype: of latents.
        device: where passes run.

    Attributes:
        buffer: ``[S, 1, F, C, h, w]``; entry ``s`` enters a frame's input at its step ``s``.
    """

    def __init__(
        self, schedule: ScheduleConfig, shape: Sequence[int], *, dtype: torch.dtype,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._levels, self._carry = Schedule.from_config(schedule).levels, schedule.carry_renoise
        self._device = device
        self.buffer = torch.zeros((schedule.most_steps, *shape), dtype=dtype, device=device)

    def draw(self, source: NoiseSource, shot: int, plan: PassPlan) -> Tensor:
        """Draw what enters the inputs of a plan's frames; return that part of the buffer.

        Args:
            source: the film's.
            shot: number of the shot.
            plan: of the passes.
        """
        first = 0
        for chunk, run in groupby(plan.chunks):
            frames = slice(first, first := first + len(list(run)))
            shape = (1, first - frames.start, *self.buffer.shape[3:])
            levels = [self._levels[level[frames.start]] for level in plan.levels]
            fresh = [0] if frames.start >= plan.carried else []
            for step in (*fresh, *(level.step + 1 for level in levels if not level.last)):
                self.buffer[step][:, frames] = source.draw(shot, chunk, step, shape, self._device)
                if self._carry and step and chunk:  # the first frame takes that of the one before
                    before = source.draw(shot, chunk - 1, step, shape, self._device)
                    self.buffer[step][:, frames.start] = before[:, -1]
        return self.buffer[:, :, :first]

    def enter_late(self, plan: PassPlan, clean: Tensor, strength: float) -> PassPlan:
        """Let a plan's frames begin as known ones at a later step; their noise is drawn.

        Args:
            plan: of the passes.
            clean: the frames, ``[1, F, C, h, w]``.
            strength: share of the steps that are run, above 0 and up to 1: rounded down, but at
                least one step.

        Returns:
            The plan of what is left to do.
        """
        steps = len(plan.levels)
        skipped = steps - max(1, int(steps * strength + 1e-6))
        if skipped:
            level = self._levels[plan.levels[skipped][0]]
            noise = self.buffer[:, :, : plan.frames]
            noise[0] = renoise(clean, noise[skipped], level.sigma)
        return replace(plan, levels=plan.levels[skipped:])
