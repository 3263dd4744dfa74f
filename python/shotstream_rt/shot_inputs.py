"""What a shot begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .model.captions import CaptionSet


@dataclass(frozen=True, slots=True, eq=False)
class ShotInputs:
    """What ``Pipeline.begin_shot`` takes.

    It raises ``ConfigError`` for shapes that do not fit the configuration or each other.

    Attributes:
        shot: its number; addresses the noise. Where a cut keeps the caches, the next number goes on
            behind the shot before, and the same one begins once more where it began.
        context: ``[1, context_frames, C, h, w]``; zeros for a film's first shot.
        flags: shot number of each context frame.
        captions: one for all frames, or one per shot in ``flags``, rising, and the new shot's.
        target_flag: phase number of the new shot.
        given: ``[1, F, C, h, w]``, clean latents of the shot's first chunks.
        strength: None keeps these chunks as they are. Otherwise they are made of what is given by
            this share of the denoising steps, above 0 and up to 1; see ``PassNoise``.
        chunks: length of the shot, if it is known that it will not be longer.
    """

    shot: int
    context: Tensor
    flags: Sequence[int]
    captions: CaptionSet
    target_flag: int
    given: Tensor | None = None
    strength: float | None = None
    chunks: int | None = None
