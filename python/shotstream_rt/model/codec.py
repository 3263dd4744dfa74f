"""What a latent codec offers: frames to latents, latents to frames, and streaming decode.

Implemented in ``wan_vae/codec.py``, ``tiny/codec.py`` and ``nano/codec.py``; sessions and trainers
use only these protocols. A codec does not know about shots: the code that decodes a film makes one
``StreamDecoder`` and resets it at each cut.

Layouts: latents are ``[batch, F, C, h, w]``, normalised (unit scale); frames are RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class StreamDecoder(Protocol):
    """A decoder with a memory: consecutive latents in, frames out, as in one long decode."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latent frames of the stream.

        Args:
            latents: ``[1, F, C, h, w]`` normalised, ``F >= 1``, any float dtype.

        Returns:
            float32 ``[1, P, 3, H, W]`` in [-1, 1]; the first latent of a stream gives one frame,
            each later one ``temporal_stride`` frames.
        """
        ...

    def reset(self) -> None:
        """Forget the stream: the next latent decoded is a first one."""
        ...


@runtime_checkable
class ResumableDecoder(StreamDecoder, Protocol):
    """A stream decoder whose memory is so small that a copy of it may be kept for every chunk."""

    def state(self) -> tuple[Tensor, ...]:
        """Return a copy of what it remembers of a stream of which something was decoded."""
        ...

    def resume(self, state: tuple[Tensor, ...]) -> None:
        """Go on where its stream, or another one of the same size, was when ``state`` was taken.

        Args:
            state: what ``state`` returned; it may be resumed from again.
        """
        ...


@runtime_checkable
class AbandonableDecoder(StreamDecoder, Protocol):
    """A stream decoder that can give up in the middle of a decode.

    Attributes:
        abandoned: asked between its layers; when it says yes, ``decode`` raises
            ``ChunkAbandonedError``, and the stream has to be reset or resumed.
    """

    abandoned: Callable[[], bool]


@runtime_checkable
class ThreadFreeDecoder(StreamDecoder, Protocol):
    """A stream decoder that can tell whether torch's number of threads changes its frames."""

    @property
    def same_on_any_threads(self) -> bool:
        """Whether its frames are the same to the bit with any number of threads of torch."""
        ...


@runtime_checkable
class LatentCodec(Protocol):
    """Both directions between frames and latents."""

    @property
    def dtype(self) -> torch.dtype:
        """Type to which frames are rounded before they are encoded, and of their latents."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of a latent frame."""
        ...

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent row or column."""
        ...

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame after the first."""
        ...

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """Return frame height and width in pixels of a latent size."""
        ...

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode frames one by one, each as a clip of its own.

        Args:
            frames: float ``[N, 3, H, W]`` in [-1, 1].

        Returns:
            ``[N, C, h, w]`` normalised, in the codec's dtype.
        """
        ...

    def encode_clip(self, clip: Tensor) -> Tensor:
        """Encode one clip of ``1 + temporal_stride * k`` frames.

        Args:
            clip: float ``[1, 3, 1 + temporal_stride * k, H, W]`` in [-1, 1].

        Returns:
            ``[1, 1 + k, C, h, w]`` normalised, in the codec's dtype.
        """
        ...

    def decoder(self) -> StreamDecoder:
        """Return a new streaming decoder; several may live side by side."""
        ...

    def decode_full(self, latents: Tensor) -> Tensor:
        """Decode a whole clip, ``[1, F, C, h, w]`` to float32 ``[1, P, 3, H, W]`` in [-1, 1]."""
        ...
