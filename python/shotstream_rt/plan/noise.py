"""Noise as a function of its address (shot, chunk, step), not of a generator's state.

``PhiloxNoise`` gives the same numbers for an address on every backend, so one chunk can be made
again alone; ``RecordedNoise`` plays back tensors for parity tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .._native import philox_normal
from ..device.transfer import send
from ..errors import ConfigError
from ..kernels.reference.noise import noise_address
from ..kernels.sets.kernel_set import triton_unavailable_reason

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


class PhiloxNoise:
    """Counter-based noise: Philox4x32-10 keyed by the seed and addressed by its use.

    Drawn on the device where it is wanted: by the native core on the host, by a kernel on a GPU.

    Args:
        seed: integer in [0, 2**64).
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def draw(
        self, shot: int, chunk: int, step: int, shape: Sequence[int], device: torch.device = HOST
    ) -> Tensor:
        """See ``NoiseSource.draw``; arguments as there."""
        if device.type != "cpu":
            address = send(noise_address(self._seed, shot, chunk, HOST), device)
            return _kernel()(address, step, math.prod(shape)).view(tuple(shape))
        values = np.empty(tuple(shape), dtype=np.float32)
        philox_normal(values.reshape(-1), self._seed, shot, chunk, step)
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
        """See ``NoiseSource.draw``; arguments as there."""
        if shot >= len(self._initial):
            raise ConfigError(f"RecordedNoise: got shot {shot}, wanted < {len(self._initial)}")
        frames = shape[1]
        if step == 0:
            played = self._initial[shot][:, chunk * frames : (chunk + 1) * frames]
        else:
            played = self._renoise[shot][chunk * self._draws + step - 1].unsqueeze(0)
        return send(played.float(), device)
