"""Decoding a shot chunk by chunk, and going back in it.

A streaming decoder remembers what came before, so it cannot simply decode an earlier chunk once
more. Where what it remembers is small, that is kept behind the newest chunks, and going back to one
of them decodes nothing. From anywhere else the chunks before are decoded again, which takes longer
and gives the same frames.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..abandonment import never
from ..model.codec import AbandonableDecoder, ResumableDecoder, StreamDecoder


class ShotDecoder:
    """Decodes the chunks of one shot after the other; used by the decode thread alone.

    Args:
        decoder: decodes every shot.
        kept_chunks: first chunks of a shot whose latents are kept; one of them can be decoded
            instead of what was decoded.
        kept_states: chunks that can be taken back without decoding, where the decoder's memory can
            be kept.
    """

    def __init__(self, decoder: StreamDecoder, *, kept_chunks: int, kept_states: int) -> None:
        self._decoder = decoder
        self._resumable = decoder if isinstance(decoder, ResumableDecoder) else None
        self._abandonable = decoder if isinstance(decoder, AbandonableDecoder) else None
        self._kept_chunks, self._kept_states = kept_chunks, kept_states
        self._latents: list[Tensor] = []
        self._states: dict[int, tuple[Tensor, ...]] = {}  # by the chunk that comes next
        self._next: int | None = None  # what the decoder goes on with; None if a decode failed

    def decode(self, chunk: int, latents: Tensor, abandoned: Callable[[], bool] = never) -> Tensor:
        """Decode latents ``[1, F, C, h, w]``, which are kept, to float32 ``[1, P, 3, H, W]``.

        Chunk 0 begins a shot; a chunk decoded before is decoded instead of it and all behind it.

        Args:
            chunk: number in the shot.
            latents: not to be written to.
            abandoned: asked between the layers of a decoder that can give up.

        Raises:
            ChunkAbandonedError: it said yes; any chunk may come next.
        """
        follows, self._next = chunk == self._next, None
        if self._abandonable is not None:
            self._abandonable.abandoned = abandoned
        try:
            if chunk == 0:
                self._latents, self._states = [], {}
                self._decoder.reset()
            elif not follows:
                self._wind_back(chunk)
            frames = self._decoder.decode(latents)
        finally:
            if self._abandonable is not None:
                self._abandonable.abandoned = never
        self._next = chunk + 1
        if len(self._latents) == chunk < self._kept_chunks:
            self._latents.append(latents)
        if self._resumable is not None:
            self._states[self._next] = self._resumable.state()
            self._states.pop(chunk - self._kept_states, None)
        return frames

    def can_go_back(self, chunk: int) -> bool:
        """Tell whether ``chunk`` can be decoded next."""
        return chunk == self._next or chunk in self._states or chunk <= len(self._latents)

    def _wind_back(self, chunk: int) -> None:
        """Bring the decoder to where ``chunk`` comes next, from the nearest place before it."""
        del self._latents[chunk:]
        self._states = {at: state for at, state in self._states.items() if at <= chunk}
        begin = max(self._states, default=0)
        if self._resumable is not None and begin:
            self._resumable.resume(self._states[begin])
        else:
            self._decoder.reset()
        for latents in self._latents[begin:]:
            self._decoder.decode(latents)
