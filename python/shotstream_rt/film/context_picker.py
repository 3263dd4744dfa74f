"""Which kept frames a new shot sees: by the model's rule, by what callers said or by their choice.

Called by the context selector, which keeps the frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config import ContextChoice
from ..errors import ConfigError
from ..kernels.reference.frame_pack import frame_pack
from ..model.codec import LatentCodec
from ..printable import listed, shown
from ..types import Choose, MemoryFrame
from .picks import pick_context, repeated
from .shot_memory import ShotMemory


class ContextPicker:
    """Picks context frames of past shots.

    Args:
        codec: decodes frames that are to be looked at and of which only the latent is kept.
        budget: context frames of every shot; 0 for none.
        choice: the model's rule (``CacheConfig.context_choice``).
        device: where latents are decoded.

    Attributes:
        pins: numbers in the film of frames that every later shot sees.
        forgotten: numbers of shots that no later shot sees.
        choose: picks instead of the model's rule; see ``Session``.
    """

    def __init__(
        self, codec: LatentCodec, budget: int, choice: ContextChoice, device: torch.device
    ) -> None:
        self._codec, self._budget, self._device = codec, budget, device
        self._choice: ContextChoice = choice
        self.pins: frozenset[int] = frozenset()
        self.forgotten: frozenset[int] = frozenset()
        self.choose: Choose | None = None

    def pick(
        self, past: Sequence[ShotMemory], caption: str, context: Sequence[int] | None, room: int
    ) -> list[tuple[ShotMemory, int]]:
        """Pick the context of a shot: past shots, each with one of its frames, oldest first.

        Args:
            past: the shots, oldest first, with the frames that are kept of them.
            caption: of the shot that is to see them.
            context: numbers in the film of the frames, where they were picked before.
            room: frames that are picked; of those of the rule, the newest.

        Raises:
            ConfigError: ``choose`` returned what is not usable, or a frame is not kept.
        """
        if context is None and not (self.choose or self.pins or self.forgotten):
            if self._budget == 0:
                return []
            newest = past[-self._budget :]
            counts = [memory.frame_count for memory in newest]
            ruled = pick_context(counts, self._budget, self._choice)
            return [(newest[i], f) for i, f in ruled[len(ruled) - room :]]
        offered = [
            (memory, frame)
            for memory in past
            if context is not None or memory.shot not in self.forgotten
            for frame in memory.kept
        ]
        by_index = {memory.first_index + frame: (memory, frame) for memory, frame in offered}
        if context is None:
            context = self._chosen(past, offered, caption, room)
        unknown = [index for index in context if index not in by_index]
        if unknown:
            raise ConfigError(f"context: got frames {listed(unknown)}, which are not kept any more")
        return [by_index[index] for index in context]

    def seen(self, memory: ShotMemory, frame: int) -> MemoryFrame:
        """Return a kept frame of a shot with its picture, as callers get it."""
        if frame in memory.frames:
            picture = frame_pack(memory.frames[frame][None])[0]
        elif frame in memory.pictures:
            picture = memory.pictures[frame]
        else:  # it came with a snapshot, which holds latents only
            latent = memory.latents[frame][None, None].to(self._device)
            picture = frame_pack(self._codec.decode_full(latent)[0])[0]
        index = memory.first_index + frame
        return MemoryFrame(
            shot=memory.shot, index=index, pinned=index in self.pins, picture=picture.cpu().numpy()
        )

    def _chosen(
        self,
        past: Sequence[ShotMemory],
        offered: Sequence[tuple[ShotMemory, int]],
        caption: str,
        room: int,
    ) -> list[int]:
        """Return the numbers of the frames that ``choose``, or the rule with pins, picks."""
        if not offered or room == 0:
            return []
        if self.choose is not None:
            seen = tuple(self.seen(memory, frame) for memory, frame in offered)
            found = [
                one.index if isinstance(one, MemoryFrame) else one
                for one in self.choose(seen, room, caption)
            ]
            if not 1 <= len(found) <= room or not all(type(i) is int for i in found):
                raise ConfigError(
                    f"choose: got {shown(found)}, wanted 1 to {room} of the frames it was "
                    "given, or their numbers"
                )
            return repeated(sorted(found), room)
        newest = [memory for memory in past if memory.shot not in self.forgotten][-self._budget :]
        counts = [memory.frame_count for memory in newest]
        ruled = [
            newest[i].first_index + f for i, f in pick_context(counts, self._budget, self._choice)
        ]
        indices = [memory.first_index + frame for memory, frame in offered]
        pinned = [index for index in indices if index in self.pins][-room:]
        rest = [index for index in ruled if index not in pinned]
        # The oldest frames make room.
        rest = rest[max(0, len(rest) - room + len(pinned)) :]
        return repeated(sorted(pinned + rest), room)
