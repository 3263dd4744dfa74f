"""The frames of past shots that later ones may see, and the latents of those that are picked.

Called by the generator thread (``select``, ``end_shot``), by the decode thread (``add_frames``) and
by the thread that takes a snapshot; a lock guards the frames. Holds at most ``budget`` past shots
and of each only the frames that a later shot may still select, so memory does not grow with the
film. A frame is kept as the decoder's float output in the codec's type, never rounded to 8 bits,
until it is encoded; then only its latent is kept.

Source: ShotStream inference, context sampling (``dynamic_sample_frames``).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import ContextChoice
from ..device.lent_memory import MemoryLender
from ..device.own_memory import bytes_together, copies_in
from ..errors import ConfigError
from ..model.codec import LatentCodec
from ..printable import shown
from ..types import MemoryFrame
from .context_picker import ContextPicker
from .frame_ring import FrameRing
from .picks import frames_wanted, pick_context, repeated
from .reference import ReferencePicture
from .shot_memory import ContextSelection, ShotMemory

_LAST_FLAG = 1 << 20
"""Largest shot flag that the native planner takes."""


class ContextSelector:
    """Collects the frames of shots, and encodes those that the next one sees.

    Args:
        codec: encodes each picked frame as a clip of its own.
        budget: context frames of every shot (``CacheConfig.context_frames``); 0 for none.
        latent_shape: ``(C, h, w)`` of a latent frame.
        shot_limit: frames of a shot of trained length. Of a shot that was extended beyond it, only
            the last ``shot_limit`` frames may become context.
        spare_frames: frames before those of which a shot that was extended keeps pixels too, so
            that it can go back by as many.
        device: where latents live.
        choice: which frames of past shots are context (``CacheConfig.context_choice``).

    Attributes:
        budget: context frames of every shot.
        shot_limit: frames of a shot of trained length.
        picker: picks the frames that a shot sees.
        wanted: numbers in the film of frames that are kept whatever the rule says.
        past: the past shots that context may come from, oldest first.
        newest: what is kept of the shot begun last.
        blank: what a shot sees when there is nothing to see, as the first one.

    Raises:
        ConfigError: the codec does not tell its ``dtype``.
    """

    def __init__(
        self,
        codec: LatentCodec,
        *,
        budget: int,
        latent_shape: tuple[int, int, int],
        shot_limit: int,
        spare_frames: int = 0,
        device: torch.device | str = "cpu",
        choice: ContextChoice = "dynamic",
    ) -> None:
        self._codec = codec
        self._choice: ContextChoice = choice
        self.budget = budget
        self.shot_limit, self._spare_frames = shot_limit, spare_frames
        self._device = torch.device(device)
        self.picker = ContextPicker(codec, budget, choice, self._device)
        self.wanted: frozenset[int] = frozenset()
        self.past: tuple[ShotMemory, ...] = ()
        self._open: ShotMemory | None = None
        # Every frame of the newest shot and of the one before it is kept, for the reader may go
        # back to any of them. Two rings take turns.
        self.newest: ShotMemory | None = None
        self._before: ShotMemory | None = None
        self._free_ring: FrameRing | None = self._ring_for(self._no_frames(*latent_shape[1:]))
        # What is kept of past shots: each has a piece of memory, of the same size if it can be. As
        # many are there at one time as shots are seen, and two more: callers may go back to where
        # the last two began, and the newest one is copied before the oldest one goes.
        self._lender = MemoryLender(self._device)
        counts = range(1, shot_limit + 1) if budget else ()
        most = max((len(frames_wanted(count, budget, choice)) for count in counts), default=1)
        self._most_kept = most - 1  # the first frame is encoded as it comes
        # Numbers of the open shot's frames that the next one will pick.
        self._expected = self._expected_alone = self._expect()
        self._lock = threading.RLock()
        self.blank = ContextSelection(
            latents=torch.zeros(
                (1, budget, *latent_shape), dtype=torch.float32, device=self._device
            ),
            flags=(0,) * budget,
            frames=(),
            captions={},
            target_flag=1,
        )

    def begin_shot(self, shot: int, caption: str, first_index: int = 0) -> None:
        """Collect a shot's frames from now on; arguments: see ``ShotMemory``."""
        if self._before is not None:
            self._let_go(self._before)
        self._before, ring, self._free_ring = self.newest, self._free_ring, None
        memory = ShotMemory(shot=shot, caption=caption, ring=ring, first_index=first_index)
        self._open = self.newest = memory
        self._expected = self._expect() if self.past else self._expected_alone

    def _expect(self) -> frozenset[int]:
        """Return which frames the next shot picks of the open one if that has its trained length.

        They are encoded as they come, so that a cut need not wait for it.
        """
        if self.budget == 0:
            return frozenset()
        counts = [*(memory.frame_count for memory in self.past), self.shot_limit]
        picks = pick_context(counts[-self.budget :], self.budget, self._choice)
        last, _ = picks[-1]
        return frozenset(frame for index, frame in picks if index == last)

    def add_frames(self, frames: Tensor) -> None:
        """Keep the next frames of the open shot, float ``[P, 3, H, W]`` in [-1, 1]."""
        memory = self._open
        assert memory is not None, "add_frames before begin_shot"
        ring = memory.ring
        if ring is None or ring.newest.shape[1:] != frames.shape[1:]:
            ring = self._take_memory(memory, frames)
        for frame in frames:
            number = memory.frame_count
            with self._lock:
                if number >= self.shot_limit:  # the shot was extended
                    self._make_room(memory, ring, number - self.shot_limit)
                memory.frames[number] = ring.newest[number % self.shot_limit].copy_(frame)
                memory.frame_count += 1
                if number in self._expected:
                    memory.latent(number, self._codec)

    def _no_frames(self, latent_height: int, latent_width: int) -> Tensor:
        """Return no frames, of the size and type in which the codec's are kept.

        Raises:
            ConfigError: the codec does not tell its type.
        """
        dtype = getattr(self._codec, "dtype", None)
        if not isinstance(dtype, torch.dtype):
            raise ConfigError(
                f"codec: got {type(self._codec).__name__} with dtype {shown(dtype)}, wanted a "
                "torch.dtype, to which it rounds frames before it encodes them (LatentCodec)"
            )
        size = self._codec.pixel_size(latent_height, latent_width)
        return torch.empty((0, 3, *size), dtype=dtype, device=self._device)

    def _ring_for(self, frames: Tensor) -> FrameRing:
        return FrameRing(frames, self.shot_limit, self._spare_frames)

    def _take_memory(self, memory: ShotMemory, frames: Tensor) -> FrameRing:
        """Give the open shot a ring for its frames, and the film all memory that it will need.

        That is behind the first frames of its second shot: it then grows no more from shot to shot.
        """
        frames = frames.to(self._codec.dtype)
        ring = memory.ring = self._ring_for(frames)
        ring.fill(0)
        before = self._before
        if before is not None and before.ring is not None:
            before.ring.fill(before.frame_count)
        if self._most_kept > 0 and len(frames):
            with self._lock:
                self._lender.lay_in(self._usual_bytes(frames[0]), self.budget + 2)
        return ring

    def _usual_bytes(self, frame: Tensor) -> int:
        return self._most_kept * bytes_together([frame])

    def _make_room(self, memory: ShotMemory, ring: FrameRing, frame: int) -> None:
        """Set the ring's oldest frame aside, and drop one that the shot cannot go back to any more.

        Args:
            memory: of the shot.
            ring: its ring.
            frame: number of the oldest one in it.
        """
        memory.forget(frame - self._spare_frames)
        if frame in memory.frames:
            memory.frames[frame] = ring.set_aside(frame, memory.frames[frame])

    def change_caption(self, caption: str) -> None:
        """Set the caption of the open shot."""
        assert self._open is not None, "change_caption before begin_shot"
        self._open.caption = caption

    def end_shot(self) -> None:
        """Move the open shot to the past, keeping only frames that can still be picked."""
        if self._open is None:
            return
        ended = self.ended_shot()
        self._open = None
        if ended is not None:
            self.past = self.trimmed((*self.past, ended))

    def drop_shot(self, past: Sequence[ShotMemory]) -> None:
        """Forget the open shot, or the one that ended last; ``past`` is what was before it."""
        self._open = None
        self.past = tuple(past)

    def reopen(self, memory: ShotMemory, past: Sequence[ShotMemory], frame_count: int) -> bool:
        """Go back to where a shot had so many frames; False if they are not kept any more.

        Args:
            memory: what ``newest`` was in that shot.
            past: the past shots before it.
            frame_count: frames of it that are left.
        """
        # Fewer are kept if a chunk was dropped before it was decoded.
        if memory not in (self.newest, self._before) or memory.frame_count < frame_count:
            return False
        first = max(0, frame_count - self.shot_limit)
        if frame_count > 0 and min(memory.kept, default=frame_count) > first:
            return False
        with self._lock:
            if memory is self._before and self.newest is not None:
                self._let_go(self.newest)
                self._before = None
            for frame in range(frame_count, memory.frame_count):
                memory.forget(frame)
            memory.frame_count = frame_count
        self._open = self.newest = memory
        self.past = tuple(past)
        return True

    def _let_go(self, memory: ShotMemory) -> None:
        """Empty what is kept of a shot; the next one to begin takes over its buffer."""
        self._free_ring = memory.ring
        memory.frames, memory.latents, memory.pictures, memory.ring = {}, {}, {}, None

    def ended_shot(self, *, copied: bool = True) -> ShotMemory | None:
        """Return what would be kept of the open shot if it ended here, None for nothing.

        Args:
            copied: its frames are copies; otherwise they are of use under the lock alone.
        """
        memory = self._open
        if memory is None or memory.frame_count == 0 or self.budget == 0:
            return None
        with self._lock:
            first = max(0, memory.frame_count - self.shot_limit)
            count = memory.frame_count - first
            start = memory.first_index + first
            wanted = {
                *frames_wanted(count, self.budget, self._choice),
                *(index - start for index in self.wanted if 0 <= index - start < count),
            }
            frames = {f: memory.frames[f + first] for f in wanted if f + first in memory.frames}
            lent = None
            if copied and frames:
                kept = [*frames.values()]
                size = max(self._usual_bytes(kept[0]), bytes_together(kept))
                lent = self._lender.lend(size)
                frames = dict(zip(frames, copies_in(lent.piece, kept), strict=True))
            return ShotMemory(
                shot=memory.shot,
                caption=memory.caption,
                frame_count=count,
                first_index=start,
                pictures={f - first: seen for f, seen in memory.pictures.items() if f >= first},
                frames=frames,
                lent=lent,
                latents={
                    f: memory.latents[f + first] for f in wanted if f + first in memory.latents
                },
            )

    def select(
        self, caption: str = "", context: Sequence[int] | None = None,
        images: Sequence[ReferencePicture] = (),
    ) -> ContextSelection:  # fmt: skip
        """Pick and encode the context of the next shot; raises as ``ContextPicker.pick``.

        Args:
            caption: of that shot.
            context: numbers in the film of its frames of past shots, where they were picked before.
            images: pictures that it sees too; the oldest frames make room for them.
        """
        room = self.budget - len(images)
        picks = self.picker.pick(self.past, caption, context, room) if self.past else []
        if not picks and not images:
            return self.blank
        return self._encoded_context(picks, caption, images)

    def _encoded_context(
        self,
        picks: Sequence[tuple[ShotMemory, int]],
        caption: str,
        images: Sequence[ReferencePicture],
    ) -> ContextSelection:
        """Encode picked frames and pictures.

        The pictures stand behind the frames as a shot of their own right before the new one, with
        the new one's caption; where there are no frames, the pictures fill the context.
        """
        with self._lock:
            latents = [memory.latent(f, self._codec) for memory, f in picks]
        shots = [memory.shot for memory, _ in picks]
        captions = {memory.shot: memory.caption for memory, _ in picks}
        if images:
            seen = self._encode_pictures(images)
            shown_as = repeated(range(len(images)), self.budget - len(picks))
            latents += [seen[number] for number in shown_as]
            shots += [shots[-1] + 1 if shots else 0] * len(shown_as)
            captions[shots[-1]] = caption
        # Only the distance between flags counts, so a film of any length stays in the planner's
        # range by counting from the oldest shot of its context.
        base = 0 if shots[-1] < _LAST_FLAG else shots[0]
        flags = tuple(shot - base for shot in shots)
        return ContextSelection(
            latents=torch.stack(latents)[None].to(self._device),
            flags=flags,
            frames=tuple((memory.shot, f) for memory, f in picks),
            captions=captions,
            target_flag=flags[-1] + 1,
            indices=tuple(memory.first_index + f for memory, f in picks),
        )

    def _encode_pictures(self, images: Sequence[ReferencePicture]) -> Tensor:
        """Return pictures as latents ``[N, C, h, w]``."""
        frames = torch.stack([image.to_floats() for image in images])
        return self._codec.encode_frames(frames.to(self._device))

    def remembered(self, caption: str = "") -> tuple[MemoryFrame, ...]:
        """Return what a shot would see as context if it began now; encodes nothing.

        Args:
            caption: of the shot.
        """
        with self._lock:
            ended = self.ended_shot(copied=False)
            past = self.trimmed((*self.past, *(() if ended is None else (ended,))))
            picks = self.picker.pick(past, caption, None, self.budget)
            return tuple(self.picker.seen(memory, frame) for memory, frame in picks)

    def kept_frames(self) -> dict[int, int]:
        """Return the frames that are kept, by number in the film, with the number of their shot."""
        with self._lock:
            memories = [*self.past, *(() if self._open is None else (self._open,))]
            return {
                m.first_index + frame: m.shot
                for m in memories
                for frame in m.kept
                if frame >= m.frame_count - self.shot_limit
            }

    def trimmed(self, past: Sequence[ShotMemory]) -> tuple[ShotMemory, ...]:
        """Return the last ``budget`` shots, and of older ones those with a frame that is wanted."""
        recent = len(past) - self.budget
        return tuple(
            memory
            for number, memory in enumerate(past)
            if number >= recent
            or any(memory.first_index + frame in self.wanted for frame in memory.kept)
        )

    def encoded(self, past: Sequence[ShotMemory]) -> list[ShotMemory]:
        """Return copies of ``past`` in which every frame is a latent, for a snapshot."""
        while True:
            # One at a time: the frames that are being made wait for no more than that.
            with self._lock:
                left = next(((m, frame) for m in past for frame in m.frames), None)
                if left is None:
                    return [
                        dataclasses.replace(m, frames={}, lent=None, latents=dict(m.latents))
                        for m in past
                    ]
                memory, frame = left
                memory.latent(frame, self._codec)

    def load_past(self, past: Sequence[ShotMemory]) -> None:
        """Forget everything and keep ``past`` instead."""
        self._open = None
        if self.newest is not None:
            self._let_go(self.newest)
        self.newest = self._before = None
        self.past = tuple(
            dataclasses.replace(
                memory,
                frames=dict(memory.frames),
                latents={f: latent.to(self._device) for f, latent in memory.latents.items()},
            )
            for memory in past
        )
