"""Rotary tables in memory that never moves, so that captured passes can read them.

Rows and columns of a frame turn alike in every plan; only the time pairs change. Those are a few
numbers per frame, computed on the host in float64 and sent without waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config import ModelConfig
from ..kernels.reference.rope_shot import SHOT_PHASE_RAD, axis_pairs, rope_angles, rotation
from ..transfer import send


class RotaryTable:
    """The rotation of some latent frames.

    Args:
        model: grid and head size.
        frames: frames that are rotated.
        shot_phase: whether flags turn the time pairs.
        device: where it lives.
        plain_frames: frames in front that are not rotated.

    Attributes:
        rows: complex64 ``[(plain_frames + frames) * frame tokens, D / 2]``.
    """

    def __init__(
        self,
        model: ModelConfig,
        frames: int,
        *,
        shot_phase: bool,
        device: torch.device,
        plain_frames: int = 0,
    ) -> None:
        self._head_dim = model.head_dim
        self._phase_rad = SHOT_PHASE_RAD if shot_phase else 0.0
        still = rotation(rope_angles([0.0], [0.0], model.grid, model.head_dim))
        plain = torch.ones_like(still).repeat(plain_frames, 1)
        self.rows = torch.cat([plain, still.repeat(frames, 1)]).to(device)
        turning = self.rows[len(plain) :].unflatten(0, (frames, len(still)))
        self._time = turning[..., : axis_pairs(model.head_dim)[0]]

    def set(self, positions: Sequence[int], flags: Sequence[int]) -> None:
        """Turn the first frames to their temporal positions and shot numbers, one of each."""
        phases = [flag * self._phase_rad for flag in flags]
        angles = rope_angles(positions, phases, (1, 1), self._head_dim)
        time = rotation(angles[:, : self._time.shape[-1]])
        self._time[: len(positions)] = send(time, self.rows.device).unsqueeze(1)
