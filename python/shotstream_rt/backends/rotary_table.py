"""Rotary tables in memory that never moves, so that captured passes can read them.

Row and column pairs have the same angles in every plan; only the time pairs change. Those are a few
numbers per frame, computed on the host in float64 and sent without waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config import ModelConfig
from ..device.transfer import send
from ..kernels.reference.rope_shot import SHOT_PHASE_RAD, axis_frequencies, rope_angles, rotation
from ..plan.policy import RotaryPosition


class RotaryTable:
    """The rotation of some latent frames.

    Args:
        model: grid and head size.
        frames: frames that are rotated.
        shot_phase: whether shot flags add a phase to the time pairs.
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
        self._frequencies = axis_frequencies(model.head_dim)[0]
        self._phase_rad = SHOT_PHASE_RAD if shot_phase else 0.0
        still = rotation(rope_angles([0.0], [0.0], model.grid, model.head_dim))
        plain = torch.ones_like(still).repeat(plain_frames, 1)
        self.rows = torch.cat([plain, still.repeat(frames, 1)]).to(device)
        turning = self.rows[len(plain) :].unflatten(0, (frames, len(still)))
        self._time = turning[..., : len(self._frequencies)]

    def set(self, positions: Sequence[RotaryPosition]) -> None:
        """Set the rotation of the first frames, one at each position."""
        frames, flags = torch.tensor(positions, dtype=torch.float64).unsqueeze(-1).unbind(1)
        angles = frames * self._frequencies + flags * self._phase_rad
        turns = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
        if self.rows.is_cuda:
            turns = send(turns, self.rows.device)
        self._time[: len(positions)] = turns.unsqueeze(1)
