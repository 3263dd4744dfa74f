"""Rollout policies: which frames are denoised next, which keys a pass stores, which it reads.

A policy turns (shot, chunk) into ``PassPlan``s, and these say everything a pass does, as integers.
Backends execute plans and know no policy. A new policy is a class with the members of
``RolloutPolicy``; ``policy_of`` says which one a configuration asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigError
from .pass_plan import PLAIN, PassPlan, Roll, RotaryPosition, SlotRanges, ranges_of
from .planner import planner_of
from .rolling import RollingWindow
from .schedule import CLEAN, COMMIT

if TYPE_CHECKING:
    from .._native import ChunkPlan
    from ..config import StreamConfig
    from ..history import HistoryPolicy


class RolloutPolicy(Protocol):
    """Plans every pass of a film."""

    @property
    def arena_frames(self) -> int:
        """Slots of one layer's arena; context frames lie in front."""
        ...

    @property
    def noisy_frames(self) -> int:
        """Frames of the largest plan of a chunk."""
        ...

    def context(self, flags: Sequence[int]) -> PassPlan:
        """Plan the context pass.

        Args:
            flags: shot number of each context frame.

        Raises:
            ConfigError: another number of flags than context frames.
        """
        ...

    def chunk(self, shot: int, chunk: int, flag: int, roll: Roll = PLAIN) -> PassPlan:
        """Plan what makes one chunk final, and its clean pass.

        Args:
            shot: number in the film.
            chunk: number within the shot; may lie past the trained length.
            flag: shot number of the chunk's frames for the phase.
            roll: what else the plan depends on.

        Raises:
            ConfigError: a negative argument, or a chunk past the last rotary position.
        """
        ...

    def given(self, frames: int, flag: int) -> list[PassPlan]:
        """Plan the passes over a given start, in order; chunks go on behind it.

        Args:
            frames: latent frames that are given.
            flag: as for ``chunk``.

        Raises:
            ConfigError: a start of this length does not end where a chunk ends.
        """
        ...

    def recache(self, frames: int, flag: int, roll: Roll) -> tuple[PassPlan, Roll]:
        """Plan the pass that computes the keys of held frames anew, with other captions.

        Args:
            frames: that the cache has counted so far; the pass is over the last of them.
            flag: as for ``chunk``.
            roll: of the running shot.

        Returns:
            The plan, and what later chunks depend on.
        """
        ...


class ChunkByChunk:
    """One chunk after the other, each through all its steps, over a window and a sink.

    Keys are stored rotated to their position; or unrotated, to get new positions in every pass
    that reads them, so that a shot may be of any length. Keys of the context are always stored
    rotated, as their positions never change. Every head reads everything.

    Args:
        config: context, window, sink and numbering.
    """

    def __init__(self, config: StreamConfig) -> None:
        self._planner, self._rollout = planner_of(config), config.rollout
        self._length = config.shot.chunk_frames
        self._first_length = config.rollout.first_frames or self._length
        steps, first = config.schedule.num_steps, len(config.schedule.first_steps)
        self._levels = range(steps)
        self._first_levels = range(steps, steps + first) if first else self._levels

    @property
    def arena_frames(self) -> int:
        """See ``RolloutPolicy``."""
        return self._planner.arena_frames

    @property
    def noisy_frames(self) -> int:
        """See ``RolloutPolicy``."""
        return self._length

    def context(self, flags: Sequence[int]) -> PassPlan:
        """See ``RolloutPolicy``."""
        plan = self._planner.context(list(flags))
        return PassPlan(
            chunk=None, writes=tuple(plan.slots), rotate_keys=True,
            positions=tuple(map(RotaryPosition, plan.positions, plan.flags)),
            reads=(((0, plan.valid_frames),),), levels=((CLEAN,) * len(plan.slots),),
        )  # fmt: skip

    def chunk(self, shot: int, chunk: int, flag: int, roll: Roll = PLAIN) -> PassPlan:
        """See ``RolloutPolicy.chunk``; arguments as there."""
        levels = self._levels if chunk else self._first_levels
        return self._of(self.native(shot, chunk, flag, roll), chunk, levels)

    def native(self, shot: int, chunk: int, flag: int, roll: Roll = PLAIN) -> ChunkPlan:
        """Return the native core's plan of a chunk; arguments as for ``chunk``."""
        if roll == PLAIN and self._first_length == self._length:
            return self._planner.chunk(shot, chunk, flag)
        return self._placed(chunk, flag, roll)

    def _placed(self, chunk: int, flag: int, roll: Roll) -> ChunkPlan:
        """Plan a chunk that does not begin at its number times its length."""
        # A given start takes the place of an odd first chunk.
        odd = 0 if roll.before else self._first_length - self._length
        first = roll.before + chunk * self._length + (odd if chunk else 0)
        own = self._rollout.cut_position if roll.cut and chunk == 0 else None
        count = self._length if chunk else self._length + odd
        return self._planner.frames(first, count, flag, roll.origin, own)

    def given(self, frames: int, flag: int) -> list[PassPlan]:
        """See ``RolloutPolicy``."""
        plans, first, count = [], 0, self._first_length
        while first < frames:
            plans.append(self._of(self._planner.frames(first, count, flag), 0, (CLEAN,)))
            first, count = first + count, self._length
        if first != frames:
            raise ConfigError(
                f"given start: got {frames} latent frame(s), wanted {self._first_length} and then "
                f"a multiple of {self._length}: it ends where a chunk ends"
            )
        return plans

    def recache(self, frames: int, flag: int, roll: Roll) -> tuple[PassPlan, Roll]:
        """See ``RolloutPolicy.recache``.

        Args:
            frames: latent frames that the cache has counted so far.
            flag: shot number of the frames for the phase.
            roll: of the running shot.
        """
        window, sink = self._planner.local_frames, self._planner.sink_frames
        if self._rollout.renew_sink or frames <= window:
            roll = roll._replace(origin=max(0, frames - window))
            count = frames - roll.origin
        else:
            # The sink keeps its keys, so what lies between it and the ring is not read any more.
            count = window - sink
        native = self._planner.frames(frames - count, count, flag, roll.origin)
        return self._of(native, 0, (COMMIT,)), roll

    def _of(self, plan: ChunkPlan, chunk: int, levels: Sequence[int]) -> PassPlan:
        frames, on_read = len(plan.write_slots), self._planner.rotate_on_read
        return PassPlan(
            chunk=chunk, chunks=(chunk,) * frames, end=plan.first_frame + frames,
            levels=tuple((level,) * frames for level in levels), writes=tuple(plan.write_slots),
            positions=tuple(RotaryPosition(frame, plan.flag) for frame in plan.positions),
            rotate_keys=not on_read, reads=(((0, plan.valid_frames),),),
            read_positions=self._read_positions(plan) if on_read else None,
        )  # fmt: skip

    def _read_positions(self, plan: ChunkPlan) -> tuple[RotaryPosition | None, ...]:
        """Where keys of a pass are rotated to as they are read: all but those of the context."""
        context = self._planner.context_frames
        local = (RotaryPosition(frame, plan.flag) for frame in plan.key_positions[context:])
        return (*[None] * context, *local)


class PrunedHistory(ChunkByChunk):
    """Some heads read only the recent part of a shot's history.

    A pruned head reads the context, the sink, the last frames in front of the chunk, and the chunk.

    Args:
        config: context, window and sink.
        history: which heads, and how many frames they keep.
    """

    def __init__(self, config: StreamConfig, history: HistoryPolicy) -> None:
        super().__init__(config)
        self._history = history
        heads = range(config.model.num_heads)
        self._groups = tuple(
            tuple(int(head in pruned) for head in heads) for pruned in history.pruned_heads
        )

    def chunk(self, shot: int, chunk: int, flag: int, roll: Roll = PLAIN) -> PassPlan:
        """See ``RolloutPolicy.chunk``.

        Args:
            shot: number in the film.
            chunk: number within the shot.
            flag: shot number of the chunk's frames for the phase.
            roll: what else the plan depends on.
        """
        plan = super().chunk(shot, chunk, flag, roll)
        native, planner = self.native(shot, chunk, flag, roll), self._planner
        near = self._history.visible_slots(
            native.slot_frames, native.first_frame, planner.context_frames, planner.sink_frames
        )
        if len(near) == native.valid_frames:
            return plan
        return replace(plan, reads=(*plan.reads, ranges_of(near)), groups=self._groups)


def policy_of(config: StreamConfig) -> RolloutPolicy:
    """Return what plans every pass of a film; equal configurations give equal plans."""
    if config.rollout.policy == "rolling":
        return RollingWindow(config)
    if config.history is not None:
        return PrunedHistory(config, config.history)
    return ChunkByChunk(config)


__all__ = [
    "ChunkByChunk",
    "PassPlan",
    "PrunedHistory",
    "Roll",
    "RollingWindow",
    "RolloutPolicy",
    "RotaryPosition",
    "SlotRanges",
    "policy_of",
    "ranges_of",
]
