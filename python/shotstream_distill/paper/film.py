"""A film that is being made: what later shots may see of the shots so far.

Used by the inter-shot stage and by the teacher's films. A finished shot is decoded, and the frames
that context sampling can pick are encoded again one by one, as at inference.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from shotstream_rt.config import StreamConfig
from shotstream_rt.film.picks import frames_wanted, pick_context
from shotstream_rt.model.codec import LatentCodec

from .shot_batch import ShotBatch, Words


class Film:
    """Stories in the making: their words, and what later shots may see of the shots so far.

    Args:
        codec: latents to pictures and back.
        stream: shape of a latent frame, context budget and choice.
        words: captions of all shots.
        frames: latent frames of a shot.
        device: where latents live.
    """

    def __init__(
        self, codec: LatentCodec, stream: StreamConfig, words: Words, frames: int,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        model = stream.model
        self._codec, self._device, self.words, self._frames = codec, device, words, frames
        self._shape = (model.in_dim, model.latent_height, model.latent_width)
        self._budget = stream.cache.context_frames
        self._pictures = 1 + codec.temporal_stride * (frames - 1)
        self._choice = stream.cache.context_choice
        self._wanted = frames_wanted(self._pictures, self._budget, self._choice)
        self.kept: list[Tensor] = []

    def batch(self) -> ShotBatch:
        """Return the next shot to make; its target is empty but for its shape."""
        count, number = len(self.words), len(self.kept)
        shots = torch.zeros(count, self._budget, dtype=torch.long)
        context = torch.zeros(count, self._budget, *self._shape, device=self._device)
        if number:
            picks = pick_context([self._pictures] * number, self._budget, self._choice)
            shots = torch.tensor([[shot for shot, _ in picks]]).expand(count, -1).clone()
            columns = [self.kept[shot][:, self._wanted.index(frame)] for shot, frame in picks]
            context = torch.stack(columns, 1)
        return ShotBatch(
            context=context,
            target=context.new_zeros(count, self._frames, *self._shape),
            words=self.words,
            shots=(number,) * count,
            context_shots=shots,
        )

    @torch.no_grad()
    def remember(self, latents: Tensor) -> None:
        """Decode a finished shot ``[B, F, C, h, w]`` and keep what later shots may see."""
        self.remember_frames(self._codec.decode_full(shot[None])[0] for shot in latents)

    @torch.no_grad()
    def remember_frames(self, films: Iterable[Tensor]) -> None:
        """Encode the frames of a finished shot that later shots may see, one by one.

        Args:
            films: of each story the shot's decoded frames, float ``[P, 3, H, W]`` in [-1, 1].
        """
        kept = [self._codec.encode_frames(frames[self._wanted]).float() for frames in films]
        self.kept.append(torch.stack(kept).to(self._device))
