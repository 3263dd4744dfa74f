"""A rolling window: as many chunks at once as there are denoising steps, each a step ahead.

Window ``w`` holds the chunks ``w - S + 1`` to ``w`` (as far as they exist); chunk ``b`` in it is at
step ``w - b``. One pass brings all of them a step further and ends the oldest, whose clean pass
follows. The arena is ``[anchor | scratch | ring]``: the shot's first chunk, the chunks that are
still noisy, and the newest clean ones. The anchor's keys are placed anew in every window, right in
front of the oldest clean frame that is read, so that a pass reads one gapless run of positions.

Source: Rolling Forcing (github.com/TencentARC/RollingForcing, commit a1477d09).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .pass_plan import PLAIN, PassPlan, Roll, RotaryPosition, ranges_of
from .schedule import COMMIT

if TYPE_CHECKING:
    from ..config import StreamConfig


class RollingWindow:
    """See ``RolloutPolicy``; the film's only frames are those it makes.

    Args:
        config: steps, chunk and window; the window's frames are what a pass reads at most.
    """

    def __init__(self, config: StreamConfig) -> None:
        self._steps, self._length = config.schedule.num_steps, config.shot.chunk_frames
        self._ring = config.local_frames // self._length

    @property
    def arena_frames(self) -> int:
        """See ``RolloutPolicy``."""
        return (self._steps + self._ring) * self._length

    @property
    def noisy_frames(self) -> int:
        """See ``RolloutPolicy``."""
        return self._steps * self._length

    def context(self, flags: Sequence[int]) -> PassPlan:
        """See ``RolloutPolicy``."""
        raise ConfigError(f"context: got {len(flags)} frame(s), wanted none: a rolling window")

    def chunk(self, shot: int, chunk: int, flag: int, roll: Roll = PLAIN) -> PassPlan:
        """See ``RolloutPolicy``.

        Without ``roll.chunks`` the window stays full, as if the shot had no end.

        Args:
            shot: number in the film.
            chunk: number within the shot.
            flag: shot number of the frames, for the phase.
            roll: says how many chunks the shot has.
        """
        if min(shot, chunk, flag) < 0:
            raise ConfigError(f"shot, chunk, flag: got {(shot, chunk, flag)}, wanted 0 or more")
        if roll.before or chunk >= (roll.chunks or chunk + 1):
            raise ConfigError(f"chunk: got {chunk} of {roll}, wanted one of a shot without a start")
        if roll.chunks is not None and roll.chunks < self._steps:
            raise ConfigError(
                f"chunks: got a shot of {roll.chunks}, wanted at least {self._steps}: a rolling "
                "window has as many chunks as there are steps"
            )
        last = chunk + self._steps - 1
        first = 0 if chunk == 0 else last
        windows = [self._window(w, flag, roll.chunks) for w in range(first, last + 1)]
        clean = self._clean(chunk, flag)
        return replace(windows[-1], lead_in=tuple(windows[:-1]), clean=clean)

    def given(self, frames: int, flag: int) -> list[PassPlan]:
        """See ``RolloutPolicy``."""
        raise ConfigError(f"given start: got {frames} frame(s), wanted none: a rolling window")

    def recache(self, frames: int, flag: int, roll: Roll) -> tuple[PassPlan, Roll]:
        """Refuse: with a rolling window a new prompt needs a cut.

        Args:
            frames: latent frames that the cache has counted so far, for the error.
            flag: not read.
            roll: not read.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"prompt: got a new one after {frames} frame(s), wanted a cut instead")

    def _window(self, window: int, flag: int, chunks: int | None) -> PassPlan:
        oldest = max(0, window - self._steps + 1)
        newest = window if chunks is None else min(window, chunks - 1)
        own = range(oldest, newest + 1)
        kept = min(oldest - 1, self._ring - len(own) - 1) if oldest else 0
        scratch = range(1, len(own))
        places = {oldest: self._home(oldest)} | dict(zip(own[1:], scratch, strict=True))
        plan = self._pass(places, range(oldest - kept, oldest), oldest - kept - 1, flag)
        steps = tuple(window - chunk for chunk in plan.chunks)
        return replace(plan, levels=(steps,), carried=sum(step > 0 for step in steps))

    def _clean(self, chunk: int, flag: int) -> PassPlan:
        earlier = range(max(1, chunk - self._ring + 1), chunk)
        # The shot's first chunk is read as any other, where it stands, and leaves with its turn.
        anchor = 0 if 0 < chunk < self._ring else None
        plan = self._pass({chunk: self._home(chunk)}, earlier, anchor, flag)
        return replace(plan, levels=((COMMIT,) * self._length,))

    def _home(self, chunk: int) -> int:
        """Where a chunk's clean keys live, in chunks from the arena's beginning."""
        return 0 if chunk == 0 else self._steps + (chunk - 1) % self._ring

    def _pass(self, own: dict[int, int], earlier: range, anchor: int | None, flag: int) -> PassPlan:
        """Plan a pass.

        Args:
            own: the chunks it is over, and where their keys go, in chunks.
            earlier: clean chunks that it reads, the anchor left out.
            anchor: where the anchor is placed, as a chunk's number; ``None`` or -1: it is not read
                beside ``own``.
            flag: shot number of the frames.
        """
        length = self._length
        stands = {place: chunk for chunk, place in own.items()}
        stands |= {self._home(chunk): chunk for chunk in earlier}
        if anchor is not None and anchor >= 0:
            stands[0] = anchor
        read = {p * length + i: c * length + i for p, c in stands.items() for i in range(length)}
        slots = sorted(read)
        return PassPlan(
            chunk=next(iter(own)),
            writes=tuple(p * length + i for p in own.values() for i in range(length)),
            positions=tuple(
                RotaryPosition(c * length + i, flag) for c in own for i in range(length)
            ),
            rotate_keys=False,
            reads=(ranges_of(slots),),
            read_positions=tuple(
                RotaryPosition(read.get(s, 0), flag) for s in range(slots[-1] + 1)
            ),
            chunks=tuple(c for c in own for _ in range(length)),
            end=(next(iter(own)) + 1) * length,
        )
