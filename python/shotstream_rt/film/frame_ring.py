"""Memory for the frames of one shot, of which every one is kept.

A ring has room for a shot of trained length from the beginning, in memory of its own: what a film
takes is then known when its second shot has begun, not when its longest one has.
"""

from __future__ import annotations

from torch import Tensor

from ..device.own_memory import own_memory


class FrameRing:
    """The newest frames of a shot, and some before them where the shot is extended.

    Args:
        like: frames ``[P, 3, H, W]`` that are to be put in; it is made for such ones.
        frames: how many of the newest ones it holds.
        spare_frames: how many of those before them can be set aside.
    """

    def __init__(self, like: Tensor, frames: int, spare_frames: int = 0) -> None:
        self._spare_frames = spare_frames
        self._newest = _memory(like, frames)
        self._spare: Tensor | None = None

    def fits(self, frames: Tensor) -> bool:
        """Tell whether frames ``[P, 3, H, W]`` are of the shape, type and device of the others."""
        own = self._newest
        wanted = (own.shape[1:], own.dtype, own.device)
        return (frames.shape[1:], frames.dtype, frames.device) == wanted

    def put(self, number: int, frame: Tensor) -> Tensor:
        """Copy a shot's frame, ``[3, H, W]``, over one long before, and return it in the ring."""
        return self._newest[number % len(self._newest)].copy_(frame)

    def set_aside(self, number: int, frame: Tensor) -> Tensor:
        """Move a frame to where it stays for as many frames as can be set aside, and return it.

        Args:
            number: in the shot.
            frame: what ``put`` returned, or this for the same number.
        """
        if self._spare is None:
            self._spare = _memory(self._newest, self._spare_frames)
        return self._spare[number % self._spare_frames].copy_(frame)


def _memory(like: Tensor, frames: int) -> Tensor:
    return own_memory((frames, *like.shape[1:]), dtype=like.dtype, device=like.device)
