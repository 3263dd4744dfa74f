"""Decoding shots chunk by chunk, and going back in them.

A streaming decoder remembers what came before, so it cannot simply decode an earlier chunk once
more. Where what it remembers is small, that is kept behind the newest chunks, and going back to one
of them decodes nothing. From anywhere else the chunks before are decoded again, which takes longer
and gives the same frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

from torch import Tensor

from ..abandonment import never
from ..model.codec import AbandonableDecoder, ResumableDecoder, StreamDecoder


@dataclass(slots=True, eq=False)
class _DecodedShot:
    """What is kept of a shot: latents of its first chunks, and states by the chunk that follows."""

    shot: object
    latents: list[Tensor] = field(default_factory=list)
    states: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)


class ShotDecoder:
    """Decodes the chunks of one shot after the other; used by the decode thread alone.

    Of the shot before, what is kept stays until as many chunks of the next one were decoded as
    states are kept.

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
        # What asks whether to give up: the decoder, or nothing where it cannot.
        self._asking: AbandonableDecoder | SimpleNamespace = SimpleNamespace()
        if isinstance(decoder, AbandonableDecoder):
            self._asking = decoder
        self._kept_chunks, self._kept_states = kept_chunks, kept_states
        self._shots: list[_DecodedShot] = []  # the newest last
        self._next: tuple[object, int] | None = None  # what it goes on with; None if it failed

    def decode(
        self, shot: object, chunk: int, latents: Tensor, abandoned: Callable[[], bool] = never
    ) -> Tensor:
        """Decode a chunk, instead of what was decoded of it and behind it, to ``[1, P, 3, H, W]``.

        Args:
            shot: tells shots apart; the newest, or the one before to go back to it.
            chunk: number in the shot; 0 begins it.
            latents: ``[1, F, C, h, w]``; kept, so not to be written to.
            abandoned: see ``AbandonableDecoder``; behind one given up any chunk may come next.
        """
        follows, self._next = (shot, chunk) == self._next, None
        self._asking.abandoned = abandoned
        if chunk == 0:
            before = [kept for kept in self._shots if kept.shot is not shot]
            self._shots = [*before[-1:], _DecodedShot(shot)]
            self._decoder.reset()
        elif not follows:
            self._wind_back(shot, chunk)
        frames = self._decoder.decode(latents)
        self._asking.abandoned = never  # what was asked leads to the film
        self._next, kept = (shot, chunk + 1), self._shots[-1]
        if len(kept.latents) == chunk < self._kept_chunks:
            kept.latents.append(latents)
        if self._resumable is not None:
            kept.states[chunk + 1] = self._resumable.state()
            kept.states.pop(chunk - self._kept_states, None)
        if chunk >= self._kept_states:
            self._shots = [kept]
        return frames

    def can_go_back(self, shot: object, chunk: int) -> bool:
        """Tell whether a chunk of a shot can be decoded next."""
        kept = next((one for one in self._shots if one.shot is shot), None)
        if (shot, chunk) == self._next or kept is None:
            return kept is not None
        return chunk in kept.states or chunk <= len(kept.latents)

    def _wind_back(self, shot: object, chunk: int) -> None:
        """Bring the decoder to where ``chunk`` comes next, from the nearest place before it."""
        while self._shots[-1].shot is not shot:
            self._shots.pop()
        kept = self._shots[-1]
        del kept.latents[chunk:]
        kept.states = {at: state for at, state in kept.states.items() if at <= chunk}
        begin = max(kept.states, default=0)
        if self._resumable is not None and begin:
            self._resumable.resume(kept.states[begin])
        else:
            self._decoder.reset()
        for latents in kept.latents[begin:]:
            self._decoder.decode(latents)
