"""Values that cross the public boundary: frames and chunks of frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRAME_RATE_HZ = 16
"""Frame rate of every film (Wan2.1 is trained at 16 frames per second)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of the film.

    Attributes:
        pixels: uint8 ``[H, W, 3]`` RGB on the host, read-only.
        index: frame number in the film, from 0.
        shot: shot number, from 0.
        chunk: chunk number within the shot, from 0.
        pts_s: presentation time in seconds, ``index / 16``.
    """

    pixels: NDArray[np.uint8]
    index: int
    shot: int
    chunk: int
    pts_s: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """The frames of one chunk together.

    Attributes:
        pixels: uint8 ``[P, H, W, 3]`` RGB; a NumPy array on the host or a torch tensor on the
            device. Both speak DLPack, so a consumer takes them without a copy.
        index: number of the first frame in the film.
        shot: shot number, from 0.
        chunk: chunk number within the shot, from 0.
        pts_s: presentation time of the first frame in seconds.
    """

    pixels: Any
    index: int
    shot: int
    chunk: int
    pts_s: float

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Return the pixels' DLPack capsule."""
        return self.pixels.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the DLPack device pair of the pixels."""
        device: tuple[int, int] = self.pixels.__dlpack_device__()
        return device
