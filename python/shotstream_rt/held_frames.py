"""The newest clean frames of a shot, from which a changed prompt computes keys and values anew.

Kept by the pipeline of a student whose prompts do that (``RolloutConfig.prompt`` is ``recache``).
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

_SPARE_CHUNKS = 8
"""Chunks by which a changed prompt can go back at once: more than wait for a reader by default."""


class HeldFrames:
    """The frames, chunk by chunk, each with how many the cache had counted when it was made.

    Args:
        window_frames: latent frames that the cache holds, its sink included.
        renews_sink: whether computing keys anew makes the oldest frames that are held the sink.
    """

    def __init__(self, window_frames: int, *, renews_sink: bool) -> None:
        self._window, self._renews_sink = window_frames, renews_sink
        self._chunks: deque[tuple[int, Tensor]] = deque()
        self._recached = 0  # frames that the cache had counted when keys were last computed anew

    def clear(self) -> None:
        """Forget all; a shot begins."""
        self._chunks.clear()
        self._recached = 0

    def add(self, end: int, latents: Tensor) -> None:
        """Keep the frames just made, and drop those that no pass can compute anew.

        Args:
            end: frames that the cache has counted with them.
            latents: ``[1, F, C, h, w]``; copied.
        """
        while self._chunks and self._chunks[-1][0] >= end:  # the same chunk, made again
            self._chunks.pop()
        self._chunks.append((end, latents.clone()))
        spare = _SPARE_CHUNKS * latents.shape[1]
        while self._chunks[0][0] <= end - self._window - spare:
            self._chunks.popleft()

    def recache(self, end: int, frames: int) -> Tensor:
        """Return the newest frames, of which keys are computed anew now.

        Args:
            end: frames that the cache has counted.
            frames: how many of the last of them.

        Returns:
            ``[1, frames, C, h, w]``.
        """
        self._recached = end
        return torch.cat([latents for _, latents in self._chunks], 1)[:, -frames:]

    def go_back(self, end: int, frames: int) -> bool:
        """Drop frames, if keys can be computed anew behind those that are left.

        Args:
            end: frames that the cache has counted then.
            frames: how many of the last of them that takes.

        Returns:
            Whether it was done; if not, nothing is dropped.
        """
        held = sum(latents.shape[1] for until, latents in self._chunks if until <= end)
        renewed = self._recached > end and (self._renews_sink or self._recached <= self._window)
        if held < frames or renewed:
            return False
        while self._chunks[-1][0] > end:
            self._chunks.pop()
        return True
