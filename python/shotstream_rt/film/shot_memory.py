"""What is kept of a shot, and what the next one sees of it.

Plain values, which ``context.py`` fills and picks from, and snapshots hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..device.lent_memory import LentMemory
from ..kernels.reference.frame_pack import frame_pack
from ..model.codec import LatentCodec
from .frame_ring import FrameRing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContextSelection:
    """The context of one shot.

    Attributes:
        latents: ``[1, Cf, C, h, w]`` normalised, in the codec's dtype; zeros for the first shot.
        flags: shot number of each context frame (0 for the first shot); counted from the oldest of
            them once numbers exceed the planner's range.
        frames: ``(shot, frame in that shot)`` of each frame of a past shot; empty for the first
            shot.
        captions: by flag, the captions that context frames have; empty for the first shot.
        target_flag: shot flag of the frames to be made, last context flag + 1 (so 1 in shot 0).
        indices: numbers in the film of the frames of past shots; empty for the first shot.
    """

    latents: Tensor
    flags: tuple[int, ...]
    frames: tuple[tuple[int, int], ...]
    captions: dict[int, str]
    target_flag: int
    indices: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class ShotMemory:
    """What is kept of one shot.

    Attributes:
        shot: number in the film.
        caption: its caption, with a story's prefix; the last one, if it was changed while the shot
            ran.
        frame_count: number of frames that context frames are picked from.
        frames: frames that a later shot may still select as context and that are not encoded yet,
            by frame number, as pixels float ``[3, H, W]`` in [-1, 1].
        latents: the frames that are encoded, by frame number, ``[C, h, w]``.
        ring: memory of ``frames`` of a shot of which every frame is kept.
        first_index: number in the film of its frame 0.
        pictures: of frames that are encoded, uint8 ``[H, W, 3]``, to be looked at.
        lent: memory of ``frames`` of a past shot.
    """

    shot: int
    caption: str
    frame_count: int = 0
    frames: dict[int, Tensor] = field(default_factory=dict)
    latents: dict[int, Tensor] = field(default_factory=dict)
    ring: FrameRing | None = field(default=None, repr=False)
    first_index: int = 0
    pictures: dict[int, Tensor] = field(default_factory=dict)
    lent: LentMemory | None = field(default=None, repr=False)

    def latent(self, frame: int, codec: LatentCodec) -> Tensor:
        """Return the latent of one frame, encoding it on first use and dropping its pixels."""
        if frame not in self.latents:
            picture = self.frames.pop(frame)[None]
            self.latents[frame] = codec.encode_frames(picture)[0]
            self.pictures[frame] = frame_pack(picture)[0]
        return self.latents[frame]

    def forget(self, frame: int) -> None:
        """Drop one frame, if it is kept at all."""
        self.frames.pop(frame, None)
        self.latents.pop(frame, None)
        self.pictures.pop(frame, None)

    @property
    def kept(self) -> list[int]:
        """Frames that are kept, rising."""
        return sorted({*self.frames, *self.latents})
