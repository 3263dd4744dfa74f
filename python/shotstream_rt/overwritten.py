"""What chunks and shots take the place of in a film's caches, and putting it back.

Once a shot has gone round the ring, each of its chunks overwrites older frames, and the context of
a shot overwrites that of the one before. Copies of the newest of these are kept, so that a film can
go back by some chunks, also into the shot before, without making anything again.
"""

from __future__ import annotations

from collections.abc import Callable

from .backends.base import FilmState
from .plan.policy import PassPlan, RolloutPolicy
from .running_shot import RunningShot


class Overwritten:
    """Keeps what the newest chunks of a film have overwritten.

    Args:
        film: holds the caches.
        policy: plans the chunks.
        window_frames: latent frames of the ring; a chunk that ends behind them overwrites others.
        by_chunk: whether a chunk is all that there is to it: prompts and cuts leave the caches
            alone. Otherwise nothing is kept, and whoever goes back makes the shot again.

    Attributes:
        kept_chunks: newest chunks of which it is kept; 0 at first.
        window_frames: as above.
        shot_before: the shot before the running one, if the film can go back to it.
    """

    def __init__(
        self, film: FilmState, policy: RolloutPolicy, window_frames: int, *, by_chunk: bool
    ) -> None:
        self._film, self._policy, self._by_chunk = film, policy, by_chunk
        self.window_frames, self.kept_chunks = window_frames, 0
        self.shot_before: RunningShot | None = None
        self._put_context_back: Callable[[], None] | None = None

    def clear(self) -> None:
        """Forget the shot before."""
        self.shot_before = self._put_context_back = None

    def begin_shot(self, before: RunningShot, begun: RunningShot, context: PassPlan | None) -> None:
        """Keep what the context of a shot that begins is about to overwrite.

        Args:
            before: the running shot.
            begun: the one that begins.
            context: its context pass; None for none.
        """
        if not self._by_chunk or not self.kept_chunks or context is None or begun.given:
            self.clear()
        elif before.made:
            self.shot_before, self._put_context_back = before, self._film.keep(context.writes)
        else:  # it was given up at once: the shot to go back to is the one before it
            begun.overwritten = before.overwritten

    def begin_chunk(self, shot: RunningShot, chunk: int, plan: PassPlan) -> None:
        """Keep what a chunk is about to overwrite; one that begins once more has done so.

        Args:
            shot: the running one.
            chunk: number within it.
            plan: of the chunk.
        """
        if chunk in shot.overwritten:
            return
        too_old = shot.overwritten.pop(chunk - self.kept_chunks, None) is not None
        if too_old and self.shot_before is not None:
            self.clear()
            if plan.end <= self.window_frames:  # nothing else would be put back
                shot.overwritten.clear()
                return
        shot.overwritten[chunk] = self._film.keep(plan.writes)

    def can_remake(self, shot: RunningShot, chunk: int, last: int) -> bool:
        """Tell whether a chunk can be run again although those up to ``last`` have begun since.

        It can while nothing that it reads has been overwritten by them.

        Args:
            shot: the running one.
            chunk: number within it.
            last: likewise.
        """
        if not self._by_chunk:
            return False
        given = len(shot.given)
        made, last = max(0, chunk - given), last - given
        plan = self._plan(shot, made)
        read = {slot for first, end in plan.reads[0] for slot in range(first, end)}
        later = (self._plan(shot, number) for number in range(made + 1, last + 1))
        return (read - {*plan.writes}).isdisjoint(slot for p in later for slot in p.writes)

    def wind_back(self, shot: RunningShot, chunk: int, last: int) -> int | None:
        """Bring the caches to where a chunk comes next although those up to ``last`` have begun.

        Args:
            shot: the running one.
            chunk: number within it.
            last: of those whose keys and values may be in the caches.

        Returns:
            The last chunk of which that is still so; None if the shot has to be made again.
        """
        if not self._by_chunk:
            return None
        begun, overwritten = range(last, chunk - 1, -1), shot.overwritten
        if not all(n in overwritten or not self._overwrites(shot, n) for n in begun):
            return last if self.can_remake(shot, chunk, last) else None
        for put_back in [overwritten.pop(n) for n in begun if n in overwritten]:
            put_back()
        return chunk - 1

    def leave(self, shot: RunningShot) -> None:
        """Put back all that the running shot has overwritten, for ``shot_before`` to go on."""
        assert self._put_context_back is not None, "leave without a shot before"
        for _, put_back in sorted(shot.overwritten.items(), reverse=True):
            put_back()
        self._put_context_back()
        self.clear()

    def _overwrites(self, shot: RunningShot, chunk: int) -> bool:
        """Tell whether a chunk takes the place of frames that the window has left."""
        made = chunk - len(shot.given)
        return made >= 0 and self._plan(shot, made).end > self.window_frames

    def _plan(self, shot: RunningShot, made: int) -> PassPlan:
        """Plan a chunk, by its number behind the given ones."""
        return self._policy.chunk(shot.number, made, shot.flag, shot.roll)
