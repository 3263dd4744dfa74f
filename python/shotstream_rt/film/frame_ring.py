"""Memory for the frames of one shot, of which every one is kept.

A ring has room for a shot of trained length from the beginning, in memory of its own. Nothing of it
is resident before frames are put in, so that it costs a film nothing until its first shot begins;
``fill`` has the rest of it there at once.
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

    Attributes:
        newest: the newest ones, ``[frames, 3, H, W]``; frame ``n`` of the shot is to be copied to
            ``n % frames``, over one long before.
    """

    def __init__(self, like: Tensor, frames: int, spare_frames: int = 0) -> None:
        self._spare_frames = spare_frames
        self.newest = _memory(like, frames, resident=False)
        self._spare: Tensor | None = None

    def fill(self, begin: int) -> None:
        """Have all of its memory resident; of a shot of no more frames than ``begin``."""
        self.newest[begin:].zero_()

    def set_aside(self, number: int, frame: Tensor) -> Tensor:
        """Move a frame to where it stays for as many frames as can be set aside, and return it.

        Args:
            number: in the shot.
            frame: it in ``newest``, or what was returned for the same number.
        """
        if self._spare is None:
            self._spare = _memory(self.newest, self._spare_frames, resident=True)
        return self._spare[number % self._spare_frames].copy_(frame)


def _memory(like: Tensor, frames: int, *, resident: bool) -> Tensor:
    shape = (frames, *like.shape[1:])
    return own_memory(shape, dtype=like.dtype, device=like.device, resident=resident)
