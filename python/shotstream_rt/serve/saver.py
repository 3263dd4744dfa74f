"""Keeps what the store has of a film up to date, on a thread of its own.

Neither making nor showing frames waits for it. It saves when a chunk begins to be shown, when an
ask was done, and a second after the last frame, or after it was told what became of an ask; where
the store is slower than that, it leaves states out and writes the newest. What the store did not
take is tried again, also of a film that sleeps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import SessionClosedError, ShotStreamError
from ..session import Session
from ..types import Standing
from .from_server import Accepted, Applied, Branched, Over, Take
from .problems import StoreError
from .saved_film import ANSWERS_KEPT, SavedFilm, SavedState

_log = logging.getLogger("shotstream_rt.serve")

_CALM_S = 1.0
"""After so long without a chunk, what was shown since the last save is saved."""
_RECORDED_S = 5
"""How long a frame that was read may take to be recorded."""
_ENDS_S = 5
"""How long the last save may take."""


@dataclass(slots=True)
class SaverStats:
    """What saving has cost so far.

    Attributes:
        saves: how many times.
        bytes: written, all together.
        seconds: that it took, all together.
        longest_s: seconds that the longest save took.
        failures: saves that failed.
        skipped: saves asked for while one was under way, which another one stands for.
    """

    saves: int = 0
    bytes: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0
    failures: int = 0
    skipped: int = 0


class _Content(NamedTuple):
    """What is written of a film; see ``SavedFilm.write``."""

    state: SavedState
    snapshot: bytes
    takes: tuple[Take, ...]
    film: dict[str, Any]


class Saver:
    """Saves one film. ``wake``, ``save`` and ``asking`` may be called from any thread.

    Args:
        saved: where to.

    Attributes:
        takes: takes begun; whoever begins one appends it.
        paused: whether a director has paused the film.
        outcomes: of the last asks.
        pending: asks without an outcome so far.
        stats: what it has cost.
    """

    def __init__(self, saved: SavedFilm) -> None:
        self._saved = saved
        self._session: Session | None = None
        self._before = 0
        self.takes: deque[Take] = deque(saved.takes, maxlen=200)
        self.paused = saved.state.paused
        self.outcomes: tuple[Applied | Over, ...] = saved.state.told()
        self.pending: tuple[str, ...] = ()
        self.stats = SaverStats()
        self._answers: deque[Accepted | Branched] = deque(saved.state.answers, maxlen=ANSWERS_KEPT)
        self._changed = threading.Condition()
        self._wanted = self._done = 0
        self._asks = self._asking = 0
        self._reads, self._told = -1, self.outcomes  # as of the last save
        self._left: _Content | None = None  # what the store did not take
        self._error: ShotStreamError | None = None
        self._ended = False
        self._thread = threading.Thread(
            target=self._run, name=f"shotstream-save-{saved.id}", daemon=True
        )
        self._thread.start()

    def begin(self, session: Session) -> None:
        """Save what a session makes from now on; it has made nothing yet."""
        with self._changed:
            self._before, self._session, self._reads = self._saved.recording.added, session, -1

    def rest(self) -> None:
        """Save once more, then nothing until ``begin``: the session ends, and the film sleeps."""
        try:
            self.save()
        except StoreError as error:
            _log.error("film %s sleeps and is not saved: %s", self._saved.id, error)
        with self._changed:
            self._session = None

    def wake(self) -> None:
        """Save soon."""
        with self._changed:
            if self._wanted > self._done:
                self.stats.skipped += 1
            self._wanted += 1
            self._changed.notify_all()

    def save(self, timeout_s: float = _ENDS_S) -> None:
        """Save everything up to now, and return when it is safe.

        Args:
            timeout_s: longest wait in seconds.

        Raises:
            StoreError: it could not be saved.
        """
        with self._changed:
            self._wanted += 1
            wanted = self._wanted
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= wanted or self._ended, timeout_s)
            if self._done < wanted:
                raise StoreError(f"store: the film was not saved within {timeout_s} s")
            if self._error is not None:
                raise StoreError(str(self._error)) from self._error

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While an ask is done: no state is saved that has the ask and not the answer to it."""
        with self._changed:
            self._asks += 1
            self._asking += 1
        try:
            yield
        finally:
            with self._changed:
                self._asking -= 1
                self._changed.notify_all()

    def answered(self, answer: Accepted | Branched) -> None:
        """Keep the answer to an ask, to be saved with what it did."""
        self._answers.append(answer)

    def close(self) -> None:
        """Save for the last time and end the thread; a session that it has is still open."""
        try:
            self.save()
        except StoreError as error:
            _log.error("film %s: the last save failed: %s", self._saved.id, error)
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(_ENDS_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted > self._done or self._ended, _CALM_S)
                if self._ended:
                    return
                wanted = self._wanted
            asked_for = wanted > self._done
            error: ShotStreamError | None = None
            try:
                self._save(always=asked_for)
            except SessionClosedError as closed:
                error = closed
            except ShotStreamError as failed:
                error = failed
                self.stats.failures += 1
                if self._error is None:
                    _log.error("film %s is not saved: %s", self._saved.id, failed)
            except Exception as failed:
                error = StoreError(f"store: {type(failed).__name__}")
                self.stats.failures += 1
                _log.exception("film %s is not saved", self._saved.id)
            if error is not None:
                self._reads = -1  # so that it is tried again
            with self._changed:
                self._error, self._done = error, wanted
                self._changed.notify_all()

    def _save(self, *, always: bool) -> None:
        saved = self._saved
        with self._changed:
            session, before = self._session, self._before
        begun_s = time.perf_counter()
        if session is None:
            self._write_left(begun_s)
            return
        changed = saved.recording.added != self._reads or self.outcomes is not self._told
        if not (always or changed):
            return
        while True:
            standing, answers = self._stand(session)
            reads = before + standing.reads
            recorded = saved.recording.length_after(reads, _RECORDED_S)
            if recorded is not None:
                break
            if saved.recording.added < reads:
                raise StoreError("recording: a frame that was shown was not recorded")
        frames = saved.state.frames + reads
        outcomes, pending = self.outcomes, self.pending
        state = SavedState(
            seed=saved.state.seed,
            owner=saved.state.owner,
            frames=frames,
            index=standing.index,
            recorded=recorded,
            paused=self.paused,
            answers=answers,
            outcomes=outcomes[-ANSWERS_KEPT:],
            pending=pending[-ANSWERS_KEPT:],
        )
        takes = tuple(take for take in self.takes.copy() if take.index < standing.index)
        self._left = _Content(state, standing.snapshot, takes, session.directions())
        self._write_left(begun_s)
        self._reads, self._told = reads, outcomes

    def _write_left(self, begun_s: float) -> None:
        """Write what was not written yet, if there is anything.

        Args:
            begun_s: when that was begun, on the performance counter.
        """
        if self._left is None:
            return
        written = self._saved.write(*self._left)
        self._left = None
        took_s, stats = time.perf_counter() - begun_s, self.stats
        stats.saves += 1
        stats.bytes += written
        stats.seconds += took_s
        stats.longest_s = max(stats.longest_s, took_s)

    def _stand(self, session: Session) -> tuple[Standing, tuple[Accepted | Branched, ...]]:
        """Return where the film stands, with the answers to what was asked up to there."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asking == 0)
                asks = self._asks
            standing, answers = session.standing(), tuple(self._answers)
            with self._changed:
                if self._asks == asks:
                    return standing, answers
