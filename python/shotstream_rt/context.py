"""Which frames of past shots the next shot may see, and their latents.

Called by the generator thread (``select``, ``end_shot``), by the decode thread (``add_frames``) and
by whoever takes a snapshot; one lock keeps them apart. Holds at most ``budget`` past shots and of
each only the frames that can still be picked, so memory does not grow with the film. Frames are
kept as the decoder's float output, never as 8-bit pictures, until they are encoded; from then on
only their latents are kept.

Source: ShotStream inference, context sampling (``dynamic_sample_frames``).
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._native import context_candidates, sample_context
from .config import ContextChoice
from .model.codec import LatentCodec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContextSelection:
    """The context of one shot.

    Attributes:
        latents: ``[1, Cf, C, h, w]`` normalised, in the codec's dtype; zeros for the first shot.
        flags: shot number of each context frame (0 for the first shot).
        frames: ``(shot, frame in that shot)`` of each context frame; empty for the first shot.
        captions: caption of each shot named in ``flags``; empty for the first shot.
        target_flag: shot flag of the frames to be made, last context flag + 1 (so 1 in shot 0).
    """

    latents: Tensor
    flags: tuple[int, ...]
    frames: tuple[tuple[int, int], ...]
    captions: dict[int, str]
    target_flag: int


@dataclass(slots=True, kw_only=True, eq=False)
class ShotMemory:
    """What is left of one shot.

    Attributes:
        shot: number in the film.
        caption: what its frames are conditioned on (the last one, if it was changed on the way).
        frame_count: frames it counts with when context frames are picked.
        frames: picked-able frames not encoded yet, by frame number, float ``[3, H, W]``.
        latents: encoded ones, ``[C, h, w]``.
    """

    shot: int
    caption: str
    frame_count: int = 0
    frames: dict[int, Tensor] = field(default_factory=dict)
    latents: dict[int, Tensor] = field(default_factory=dict)

    def latent(self, frame: int, codec: LatentCodec) -> Tensor:
        """Return the latent of one frame, encoding it on first use and dropping its pixels."""
        if frame not in self.latents:
            picture = self.frames.pop(frame)
            self.latents[frame] = codec.encode_frames(picture[None])[0]
        return self.latents[frame]

    def forget(self, frame: int) -> None:
        """Drop one frame, if it is remembered at all."""
        self.frames.pop(frame, None)
        self.latents.pop(frame, None)


def pick_context(
    frame_counts: Sequence[int], budget: int, choice: ContextChoice = "dynamic"
) -> list[tuple[int, int]]:
    """Pick the context of the next shot.

    Args:
        frame_counts: decoded frames of each past shot, oldest first.
        budget: frames to pick.
        choice: see ``CacheConfig``.

    Returns:
        ``(shot, frame in shot)``, oldest first, ``budget`` of them; empty without a past shot.
    """
    if choice == "dynamic" or not frame_counts:
        return sample_context(list(frame_counts), budget)
    offered = [
        (shot, frame)
        for shot, count in enumerate(frame_counts)
        for frame in frames_wanted(count, budget, choice)
    ][-budget:]
    base, extra = divmod(budget, len(offered))
    # The newest are repeated most, as the original's sampling gives the newest shots most frames.
    times = [base + (index >= len(offered) - extra) for index in range(len(offered))]
    return [pick for pick, count in zip(offered, times, strict=True) for _ in range(count)]


def frames_wanted(frame_count: int, budget: int, choice: ContextChoice = "dynamic") -> list[int]:
    """Return, sorted, every frame of a shot that ``pick_context`` can pick now or later."""
    if choice == "dynamic":
        return context_candidates(frame_count, budget)
    return [0] if choice == "first" else sorted({0, frame_count - 1})


class ContextSelector:
    """Picks, encodes and remembers context frames.

    Args:
        codec: encodes each picked frame as a clip of its own.
        budget: context frames of every shot (``CacheConfig.context_frames``); 0 for none.
        latent_shape: ``(C, h, w)`` of a latent frame.
        shot_limit: frames of a shot of trained length. A shot that was extended beyond it counts
            with its last ``shot_limit`` frames only.
        device: where latents live.
        choice: which frames of past shots are context (``CacheConfig.context_choice``).
    """

    def __init__(
        self,
        codec: LatentCodec,
        *,
        budget: int,
        latent_shape: tuple[int, int, int],
        shot_limit: int,
        device: torch.device | str = "cpu",
        choice: ContextChoice = "dynamic",
    ) -> None:
        self._codec = codec
        self._choice: ContextChoice = choice
        self._budget = budget
        self._latent_shape = latent_shape
        self._shot_limit = shot_limit
        self._device = torch.device(device)
        self._past: deque[ShotMemory] = deque(maxlen=budget)
        self._open: ShotMemory | None = None
        self._ring: Tensor | None = None
        self._expected: frozenset[int] = frozenset()
        self._lock = threading.RLock()

    def begin_shot(self, shot: int, caption: str) -> None:
        """Start collecting the frames of ``shot``; an unfinished one before it is forgotten."""
        self._open = ShotMemory(shot=shot, caption=caption)
        if self._budget == 0:
            return
        counts = [*(memory.frame_count for memory in self._past), self._shot_limit]
        picks = pick_context(counts[-self._budget :], self._budget, self._choice)
        last = max(index for index, _ in picks)
        self._expected = frozenset(frame for index, frame in picks if index == last)

    def add_frames(self, frames: Tensor) -> None:
        """Remember the next frames of the open shot.

        Frames that the next shot will pick, should this one reach its trained length, are encoded
        at once: that is work a cut does not have to wait for.

        Args:
            frames: float ``[P, 3, H, W]`` in [-1, 1].
        """
        memory = self._open
        assert memory is not None, "add_frames before begin_shot"
        for frame in frames:
            number = memory.frame_count
            with self._lock:
                memory.forget(number - self._shot_limit)
                memory.frames[number] = self._room_for(number, frame).copy_(frame)
                memory.frame_count += 1
                if number in self._expected:
                    memory.latent(number, self._codec)

    def _room_for(self, number: int, frame: Tensor) -> Tensor:
        """Return where a frame of the open shot is kept: one ring for all shots."""
        wanted = (self._shot_limit, *frame.shape)
        if self._ring is None or self._ring.shape != wanted or self._ring.dtype != frame.dtype:
            self._ring = torch.empty(wanted, dtype=frame.dtype, device=frame.device)
        return self._ring[number % self._shot_limit]

    def change_caption(self, caption: str) -> None:
        """Set the caption of the open shot."""
        assert self._open is not None, "change_caption before begin_shot"
        self._open.caption = caption

    def end_shot(self) -> None:
        """Move the open shot to the past, keeping only frames that can ever be picked."""
        ended = self.ended_shot()
        self._open = None
        if ended is not None:
            self._past.append(ended)

    def ended_shot(self) -> ShotMemory | None:
        """Return what the open shot would leave behind if it ended here, None for nothing."""
        memory = self._open
        if memory is None or memory.frame_count == 0 or self._budget == 0:
            return None
        with self._lock:
            first = max(0, memory.frame_count - self._shot_limit)
            count = memory.frame_count - first
            wanted = frames_wanted(count, self._budget, self._choice)
            return ShotMemory(
                shot=memory.shot,
                caption=memory.caption,
                frame_count=count,
                frames={
                    f: memory.frames[f + first].clone()
                    for f in wanted
                    if f + first in memory.frames
                },
                latents={
                    f: memory.latents[f + first] for f in wanted if f + first in memory.latents
                },
            )

    def select(self) -> ContextSelection:
        """Pick and encode the context of the next shot.

        Older shots than the last ``budget`` contribute nothing, so they need not be remembered.
        """
        if not self._past:
            shape = (1, self._budget, *self._latent_shape)
            flags = (0,) * self._budget
            latents = torch.zeros(shape, device=self._device)
            return ContextSelection(
                latents=latents, flags=flags, frames=(), captions={}, target_flag=1
            )
        counts = [memory.frame_count for memory in self._past]
        picks = pick_context(counts, self._budget, self._choice)
        with self._lock:
            latents = torch.stack([self._past[i].latent(f, self._codec) for i, f in picks])
        flags = tuple(self._past[i].shot for i, _ in picks)
        return ContextSelection(
            latents=latents[None].to(self._device),
            flags=flags,
            frames=tuple((self._past[i].shot, f) for i, f in picks),
            captions={self._past[i].shot: self._past[i].caption for i, _ in picks},
            target_flag=flags[-1] + 1,
        )

    @property
    def budget(self) -> int:
        """Context frames of every shot."""
        return self._budget

    @property
    def shot_limit(self) -> int:
        """Frames of a shot of trained length."""
        return self._shot_limit

    @property
    def past(self) -> tuple[ShotMemory, ...]:
        """The past shots that still count, oldest first; shared, not copied."""
        return tuple(self._past)

    def encoded(self, past: Sequence[ShotMemory]) -> list[ShotMemory]:
        """Return copies of ``past`` in which every frame is a latent, for a snapshot."""
        with self._lock:
            for memory in past:
                for frame in tuple(memory.frames):
                    memory.latent(frame, self._codec)
            return [dataclasses.replace(m, frames={}, latents=dict(m.latents)) for m in past]

    def load_past(self, past: Sequence[ShotMemory]) -> None:
        """Replace everything remembered by ``past``, as made by ``encoded``."""
        self._open = None
        self._past.clear()
        for memory in past:
            latents = {f: latent.to(self._device) for f, latent in memory.latents.items()}
            self._past.append(dataclasses.replace(memory, frames={}, latents=latents))
