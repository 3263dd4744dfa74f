"""What one pass over some latent frames does, as integers: the currency between plan and backends.

Made by a rollout policy, executed by every backend; nobody changes one on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SlotRanges = tuple[tuple[int, int], ...]
"""Half-open ranges of arena slots, in rising order, not touching."""


class RotaryPosition(NamedTuple):
    """Where the rotary embedding places a latent frame in time.

    Attributes:
        frame: temporal position, in latent frames.
        flag: shot number, which adds the shot phase where the model has one.
    """

    frame: int
    flag: int


class Roll(NamedTuple):
    """What a shot's plans depend on beside the number of the chunk.

    Attributes:
        before: frames that the cache counted before the shot's first chunk: those of a given
            start, or of earlier shots where a cut keeps the caches.
        origin: the frame that the sink begins with, counted as ``before`` is.
        cut: the shot's first chunk comes right behind a cut that kept the caches.
        chunks: length of the shot, where it is known in advance; only a rolling window asks.
    """

    before: int = 0
    origin: int = 0
    cut: bool = False
    chunks: int | None = None


PLAIN = Roll()
"""A shot with nothing before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlan:
    """Everything that the passes over some latent frames do.

    Slots are places of latent frames in a layer's arena; a frame's tokens lie side by side. The
    denoising passes of a chunk share one plan, and so does its clean pass unless there is another
    in ``clean``.

    Attributes:
        chunk: number within the shot of the first of the frames, or ``None`` for the context pass.
        writes: arena slot that each frame's keys and values are written to.
        positions: of each frame; its queries are rotated to it.
        rotate_keys: keys are stored rotated as their queries are; otherwise as normalised, and
            ``read_positions`` says where to.
        reads: slots that are read, by group of heads, the slots just written included. Group 0
            reads the most.
        groups: by layer, the group of each head; ``None`` where all heads are in group 0.
        read_positions: of each slot up to the last one read, what its key is rotated to as it is
            read; ``None`` for a slot whose key was rotated as it was written, and ``None``
            altogether where all were.
        levels: the passes, in order; of each, every frame's noise level, as an index into
            ``Schedule.levels``. A pass over frames that are known has one, at a clean level.
        chunks: number within the shot of the chunk that each frame belongs to; with the level it
            addresses the frame's noise.
        end: frames that the cache has counted when the chunk is final.
        carried: frames in front that go on from where the plan run before left them: they are the
            last ones of that plan. The others begin as noise.
        clean: the clean pass, where it is not over the same frames; it is over the first ones.
        lead_in: plans to run before this one until the chunk is final.
    """

    chunk: int | None
    writes: tuple[int, ...]
    positions: tuple[RotaryPosition, ...]
    rotate_keys: bool
    reads: tuple[SlotRanges, ...]
    groups: tuple[tuple[int, ...], ...] | None = None
    read_positions: tuple[RotaryPosition | None, ...] | None = None
    levels: tuple[tuple[int, ...], ...] = ()
    chunks: tuple[int, ...] = ()
    end: int = 0
    carried: int = 0
    clean: PassPlan | None = None
    lead_in: tuple[PassPlan, ...] = ()

    @property
    def frames(self) -> int:
        """How many latent frames the passes are over."""
        return len(self.writes)


def ranges_of(slots: Sequence[int]) -> SlotRanges:
    """Return the half-open ranges of rising slots, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for slot in slots:
        if ranges and ranges[-1][1] == slot:
            ranges[-1] = (ranges[-1][0], slot + 1)
        else:
            ranges.append((slot, slot + 1))
    return tuple(ranges)
