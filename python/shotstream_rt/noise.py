"""Where noise comes from: an address, never a generator's state.

``PhiloxNoise`` gives the same numbers for an address on every backend, so one chunk can be made
again alone; ``RecordedNoise`` plays back tensors for parity tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigError


class NoiseSource(Protocol):
    """Standard normal noise of a film."""

    def draw(self, shot: int, chunk: int, step: int, shape: Sequence[int]) -> Tensor:
        """Noise for one use.

        Args:
            shot: shot number.
            chunk: chunk within the shot.
            step: denoising step whose input it enters; 0 is the chunk's starting noise.
            shape: of the latents, ``[1, F, C, h, w]``.

        Returns:
            float32 on the host.
        """
        ...


class PhiloxNoise:
    """Counter-based noise: Philox4x32-10 keyed by the seed and addressed by its use.

    Args:
        seed: integer in [0, 2**64).
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def draw(self, shot: int, chunk: int, step: int, shape: Sequence[int]) -> Tensor:
        """See ``NoiseSource.draw``."""
        from . import _native

        values = np.empty(tuple(shape), dtype=np.float32)
        _native.philox_normal(values.reshape(-1), self._seed, shot, chunk, step)
        return torch.from_numpy(values)


class RecordedNoise:
    """Noise played back from tensors.

    Args:
        initial: per shot ``[1, shot_frames, C, h, w]``.
        renoise: per shot ``[chunks * (steps - 1), F, C, h, w]`` in order of use.
        steps: denoising steps per chunk.
    """

    def __init__(self, initial: Sequence[Tensor], renoise: Sequence[Tensor], steps: int) -> None:
        self._initial, self._renoise, self._draws = list(initial), list(renoise), steps - 1

    def draw(self, shot: int, chunk: int, step: int, shape: Sequence[int]) -> Tensor:
        """See ``NoiseSource.draw``."""
        if shot >= len(self._initial):
            raise ConfigError(f"RecordedNoise: got shot {shot}, wanted < {len(self._initial)}")
        frames = shape[1]
        if step == 0:
            return self._initial[shot][:, chunk * frames : (chunk + 1) * frames].float()
        return self._renoise[shot][chunk * self._draws + step - 1].unsqueeze(0).float()
