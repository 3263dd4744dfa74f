"""What directors ask of a film: done once each, answered, and followed to what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

from ..session import Session
from ..types import Frame, Receipt
from .asks import ask
from .film_past import FilmPast
from .film_pause import FilmPause
from .from_server import Accepted, Applied, Branched, Over
from .from_viewer import Ask, Cancel, Check, Cut, Glass, Pause, Prompt, Resume, Retake, Undo
from .limits import Limits
from .metrics import Metrics
from .pace import Pace
from .pending_asks import PendingAsks
from .problems import StoreError
from .quotas import Account
from .saved_film import SavedState
from .saver import Saver
from .viewer import Viewer
from .viewers import Viewers

_log = logging.getLogger("shotstream_rt.serve")

_GOES_ON = Cut | Prompt | Retake | Undo | Resume
"""Asks that a film may have waited for."""
_ANSWERS_KEPT = 1024
_OUTCOMES_KEPT = 64


class FilmAsks:
    """The asks of one film. Used on the event loop's thread.

    Args:
        film: id of the film, for the log.
        state: what was asked of the film in a process before this one; None for nothing.
        limits: of the server.
        metrics: are told what becomes of asks.
        account: of the token that the film was opened with; film may be made for it, or not.
        past: of the film; tells whether it has begun.
        viewers: of the film; are told what becomes of asks.
        pace: of the film, which somebody waits for who asks.
        pause: of the film; what a director wants of it is noted.
        saver: saves the film with the answers; None if no store has it.
    """

    def __init__(
        self,
        film: str,
        state: SavedState | None,
        *,
        limits: Limits,
        metrics: Metrics,
        account: Account,
        past: FilmPast,
        viewers: Viewers,
        pace: Pace,
        pause: FilmPause,
        saver: Saver | None,
    ) -> None:
        self._film, self._limits, self._account, self._past = film, limits, account, past
        self._viewers, self._pace, self._pause, self._saver = viewers, pace, pause, saver
        self._pending = PendingAsks(self._tell_outcome, metrics)
        self._outcomes: deque[Applied | Over] = deque(maxlen=_OUTCOMES_KEPT)
        self._answers: OrderedDict[str, Accepted | Branched] = OrderedDict()
        if state is not None:
            self._outcomes.extend(state.told())
            self._answers.update((answer.id, answer) for answer in state.answers)
        self._one_at_a_time = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether an ask is being done; whoever asked may have gone."""
        return self._one_at_a_time.locked()

    @property
    def begun(self) -> bool:
        """Whether the film has a shot, or one was asked for."""
        return self._past.begun or bool(self._pending)

    async def do(
        self,
        message: Ask,
        session: Session,
        branch: Callable[[], Awaitable[str]] | None = None,
    ) -> Accepted | Branched:
        """Do what a director asks for, once for every id, and return the answer.

        Args:
            message: the ask.
            session: makes the film.
            branch: opens a film that shares this one's past, and returns its id; for a ``Branch``.

        Raises:
            ShotStreamError: it was refused.
        """
        async with self._one_at_a_time:
            if message.id in self._answers:
                return self._answers[message.id]
            with nullcontext() if self._saver is None else self._saver.asking():
                answer: Accepted | Branched
                if branch is not None:
                    answer = Branched(id=message.id, session=await branch())
                else:
                    answer = await self._do(message, session)
                self._keep(answer)
            if self._saver is not None and not isinstance(message, Check | Glass):
                try:
                    await asyncio.to_thread(self._saver.save)
                except StoreError:
                    _log.warning("film %s: an ask was answered and is not saved", self._film)
            return answer

    async def _do(self, message: Ask, session: Session) -> Accepted:
        """Do anything but a branch."""
        asked_s = time.monotonic()
        if isinstance(message, _GOES_ON):
            self._account.check_film_s()
            self._pace.ask(asked_s)
            if not self.begun:
                self._viewers.wait_from(asked_s)
        if isinstance(message, Cancel):
            notes = self._cancel(message.ask, session)
            return Accepted(id=message.id, frame=self._viewers.frames, notes=notes)
        if isinstance(message, Glass):
            self._pending.seen(message.ask, message.ms / 1000)
            return Accepted(id=message.id, frame=self._viewers.frames)
        first = self._viewers.frames
        self._pace.turn.hurry()
        result = await asyncio.to_thread(ask, session, message, self._limits)
        if isinstance(message, Pause | Resume):
            self._pause.obeyed(paused=isinstance(message, Pause))
        if isinstance(result, Receipt):
            self._pending.add(message.id, result, asked_s, first)
            # After the answer: it may be shown already.
            asyncio.get_running_loop().call_soon(self._pending.settle)
        return Accepted(id=message.id, frame=self._viewers.frames, notes=tuple(result))

    def _cancel(self, id: str, session: Session) -> tuple[str, ...]:
        """Take back an ask, and return notes on one that cannot be."""
        receipt = self._pending.receipt(id)
        if receipt is not None and session.cancel(receipt):
            self._pending.settle()  # so that what is saved with the answer tells of it
            return ()
        if Over(id=id, state="untold") in self._outcomes:
            return ("it cannot be taken back: the film slept, or its server ended, meanwhile",)
        return ("it has begun, or is over",)

    def _keep(self, answer: Accepted | Branched) -> None:
        self._answers[answer.id] = answer
        while len(self._answers) > _ANSWERS_KEPT:
            self._answers.popitem(last=False)
        if self._saver is not None:
            self._saver.paused = self._pause.asked
            self._saver.pending = self._pending.ids
            self._saver.answered(answer)

    def sent(self, number: int, frame: Frame) -> None:
        """Note that a frame was sent, as number ``number`` of the live stream."""
        self._pending.sent(number, frame)

    def settle(self) -> None:
        """Tell what became of asks, as far as it is known now."""
        self._pending.settle()

    def forget(self) -> None:
        """Follow no ask any more: the film goes to sleep."""
        self._pending.forget()

    def tell_outcomes(self, viewer: Viewer) -> None:
        """Tell a viewer what became of the last asks: it may come back and have missed it."""
        for outcome in self._outcomes:
            viewer.tell(outcome)

    def _tell_outcome(self, outcome: Applied | Over) -> None:
        self._outcomes.append(outcome)
        if self._saver is not None:
            self._saver.outcomes, self._saver.pending = tuple(self._outcomes), self._pending.ids
        self._viewers.tell(outcome)
