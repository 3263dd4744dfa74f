"""A film that is made and watched at once: one session, paced, encoded once, for all viewers.

While nobody watches it for long, or before it has come to its turn in the line, a film sleeps: it
has no session, only its past (``film_past.py``).

While it is awake, a thread of its player (``player.py``) reads the session's frames, records them
and hands each to the event loop when it is due. Everything else happens on the loop's thread: the
viewers (``viewers.py``), and what is asked of the film (``film_asks.py``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from ..loading.load_model import Model
from ..session import Session
from .film_asks import FilmAsks
from .film_past import FilmPast
from .film_pause import FilmPause
from .fragments import FragmentEncoder
from .from_server import Ended, EndReason, Failed, Stats, Takes
from .from_viewer import Ask, Forget, Pin, Unpin
from .limits import Limits
from .message import Message
from .metrics import Metrics
from .pace import Pace
from .play_ratio import PlayRatio
from .player import Played, Player
from .problems import AsleepError, problem_of
from .quotas import Account
from .saver import Saver, SaverStats
from .scheduler import Scheduler
from .shown_memory import ShownMemory
from .viewer import Viewer
from .viewers import Viewers

_log = logging.getLogger("shotstream_rt.serve")

_LOOK_S = 0.02
_SHOWN_S = 1
"""How long the last frames that were recorded may take to be shown when a film ends."""


class LiveFilm:
    """One film with its viewers. It sleeps until ``play``.

    Args:
        id: names it in addresses.
        model: makes it.
        limits: of the server.
        metrics: are told what happens.
        scheduler: gives its session turns at the device.
        seed: noise seed, 0 to 2**63 - 1.
        account: of the token that it was opened with.
        past: what there is of it, and where it is saved.

    Attributes:
        opened_s: when it was opened, in seconds since 1970: comparable between servers.
        past: what there is of it; as of when it went to sleep last, but for recording and takes.
        turn: what its session is to ask before each chunk.
        changing: held while it wakes or goes to sleep.
        viewers: who watches; nobody while it sleeps.
        encoder: makes its picture, once for all viewers.
    """

    def __init__(
        self,
        id: str,
        model: Model,
        limits: Limits,
        metrics: Metrics,
        scheduler: Scheduler,
        *,
        seed: int,
        account: Account,
        past: FilmPast,
    ) -> None:
        self.id, self.seed, self.account, self.past = id, seed, account, past
        self.opened_s = time.time()
        self.changing = asyncio.Lock()
        self._limits, self._metrics = limits, metrics
        self._saver = None if past.saved is None else Saver(past.saved)
        self._player: Player | None = None
        height, width = model.size
        self._frame_rate_hz = model.frame_rate_hz
        self.encoder = FragmentEncoder(
            height=height, width=width, frame_rate_hz=model.frame_rate_hz
        )
        state = None if past.saved is None else past.saved.state
        self._first = 0 if state is None else state.frames
        self.viewers = Viewers(
            self.encoder.head,
            metrics,
            frames=self._first,
            last=past.recording.last_shown(self._first),
        )
        self._pace = Pace(scheduler, model.frame_rate_hz)
        self.turn = self._pace.turn
        self._pause = FilmPause(asked=state is not None and state.paused)
        self._ratio = PlayRatio(model.frame_rate_hz)
        self._memory = ShownMemory(self.viewers.tell)
        self._asks = FilmAsks(
            id,
            state,
            limits=limits,
            metrics=metrics,
            account=account,
            past=past,
            viewers=self.viewers,
            pace=self._pace,
            pause=self._pause,
            saver=self._saver,
        )

    # Sleeping and waking.

    @property
    def asleep(self) -> bool:
        """Whether it has no session."""
        return self._player is None

    @property
    def session(self) -> Session:
        """What makes it.

        Raises:
            AsleepError: it sleeps.
        """
        return self._awake().session

    def _awake(self) -> Player:
        if self._player is None:
            raise AsleepError(f"session: the film {self.id} sleeps; watch it, and it goes on")
        return self._player

    def play(self, session: Session) -> None:
        """Begin, or go on, to show what a session makes.

        Args:
            session: asks ``turn`` and has restored the past's snapshot; closed with the film, or
                when it goes to sleep.
        """
        self._pause.begin(session)
        if self._saver is not None:
            self._saver.begin(session)
        self.viewers.expect()
        self._pace.restart()
        self._player = Player(
            session,
            film=self.id,
            first=self.viewers.frames,
            encoder=self.encoder,
            recording=self.past.recording,
            saver=self._saver,
            pace=self._pace,
            metrics=self._metrics,
            show=self._show,
            fail=self._tell_failure,
            settle=self._asks.settle,
        )

    async def sleep(self) -> bool:
        """Keep the film as its snapshot and free its session; nobody may be watching.

        Returns:
            Whether it sleeps; not as long as frames wait to be shown or an ask is being done, of
            which a snapshot would have to leave some out.
        """
        player = self._awake()
        session = player.session
        if self.viewers:
            return False
        self._pause.hold(session)  # if it does not sleep now, who comes lets it go on
        if not player.all_read or self.turn.busy or self._asks.busy:
            return False
        self._player = None  # who comes now waits, and wakes it
        try:
            self.past.snapshot = await asyncio.to_thread(session.snapshot)
            self.past.directions = session.directions()
        except BaseException:
            self._player = player
            raise
        if self._saver is not None:
            await asyncio.to_thread(self._saver.rest)
        self._asks.forget()
        await player.close()
        return True

    async def finish_chunk(self) -> None:
        """Begin no further chunk, and wait until those that were begun have been shown."""
        player = self._player
        if player is None:
            return
        session = player.session
        self._pause.end(session)
        while not session.closed and session.failed is None:
            if player.all_read and self.frames == await player.read():
                return
            await asyncio.sleep(_LOOK_S)

    async def close(self, message: str, reason: EndReason = "closed") -> None:
        """End the film and let its viewers go; a store keeps it, unless ``reason`` is ``closed``.

        Args:
            message: tells viewers why.
            reason: likewise, for programs.
        """
        player = self._player
        if player is not None:
            player.end()
        if self._saver is not None:
            await asyncio.to_thread(self._saver.close)
            with suppress(TimeoutError):
                async with asyncio.timeout(_SHOWN_S):
                    while self.frames < self._first + self.past.recording.added:
                        await asyncio.sleep(_LOOK_S)
        self.viewers.tell(Ended(message=message, reason=reason))
        self.viewers.close()
        if player is not None:
            await player.close()
        self.encoder.close()
        await asyncio.to_thread(self.past.release, delete=reason == "closed")

    def tick(self) -> None:
        """Once a second: tell how it goes; pause a film that nobody watches."""
        self.viewers.remove_gone()
        if self._player is None:
            return
        session, pause = self._player.session, self._pause
        self.viewers.tell(self.stats())
        if self.viewers:
            self._memory.refresh(session)
        if self.account.used_up and not pause.asked:
            pause.stop(session)
            self._tell_failure(self.account.why_used_up)
        if self.unwatched_s > self._limits.idle_pause_s and not pause:
            pause.hold(session)

    # What viewers see, and ask for.

    def join(self, viewer: Viewer, after: int | None = None) -> None:
        """Let a viewer watch: what there is, then the picture from a key frame on.

        Args:
            viewer: who watches.
            after: number of the last frame that it has: it gets what comes behind that, from the
                key frame on that it needs for it. Default, and where that is too long ago: the
                last key frame.
        """
        if self.past.takes:
            viewer.tell(Takes(takes=tuple(self.past.takes)))
            viewer.tell(self.past.kept())
        if self._memory.message is not None:
            viewer.tell(self._memory.message)
        viewer.tell(self.stats())
        self.viewers.join(viewer, after)
        if self._pause.held:
            self._pace.hurry()
            self._pause.let_go(self.session)

    def tell_outcomes(self, viewer: Viewer) -> None:
        """Tell a viewer what became of the last asks: it may come back and have missed it."""
        self._asks.tell_outcomes(viewer)

    def leave(self, viewer: Viewer) -> None:
        """Stop showing to a viewer."""
        self.viewers.leave(viewer)

    async def do(self, message: Ask, branch: Callable[[], Awaitable[str]] | None = None) -> Message:
        """Do what a director asks for, once for every id, and return the answer.

        Args:
            message: the ask.
            branch: opens a film that shares this one's past, and returns its id; for a ``Branch``.

        Raises:
            AsleepError: the film sleeps.
            ShotStreamError: it was refused.
        """
        # Whoever asks may go away meanwhile; what is done is answered all the same, and kept.
        doing = asyncio.ensure_future(self._do(message, branch))
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            doing.add_done_callback(_log_refusal)
            raise

    async def _do(self, message: Ask, branch: Callable[[], Awaitable[str]] | None) -> Message:
        session = self.session
        answer = await self._asks.do(message, session, branch)
        if isinstance(message, Pin | Unpin | Forget):
            self._memory.refresh(session)
        return answer

    def _show(self, played: Played) -> None:
        """Show a frame to everybody."""
        self._metrics.frame(played.late_s)
        self._ratio.add(time.monotonic(), played.late_s)
        self.account.film_s += 1 / self._frame_rate_hz
        self._asks.sent(played.number, played.frame)
        self.viewers.show(played.number, played.sample)
        if played.take is not None:
            self.past.takes.append(played.take)
            self.viewers.tell(played.take)
        if played.change.dropped:
            self.viewers.tell(self.past.kept())
        self._asks.settle()

    def _tell_failure(self, error: BaseException) -> None:
        self.viewers.tell(Failed(kind=type(error).__name__, message=problem_of(error).message))
        self._asks.settle()

    # How it is doing.

    @property
    def unwatched_s(self) -> float:
        """Seconds for which nobody has watched."""
        return self.viewers.unwatched_s

    @property
    def begun(self) -> bool:
        """Whether the film has a shot, or one was asked for."""
        return self._asks.begun

    @property
    def frames(self) -> int:
        """How many frames the live stream has shown."""
        return self.viewers.frames

    def stats(self) -> Stats:
        """Return how the film is doing."""
        session, idle = None if self._player is None else self._player.session, True
        if session is not None and not session.closed:
            idle = session.state.idle
        return Stats(
            frames=self.frames,
            play_ratio=round(self._ratio.value, 4),
            state="asleep"
            if session is None
            else "paused"
            if self._pause
            else "waiting"
            if idle
            else "playing",
            viewers=len(self.viewers),
            recorded_frames=len(self.past.recording),
            recording_full=self.past.recording.full,
        )

    @property
    def times(self) -> dict[str, Any]:
        """What the session chose and how long it took; nothing while it sleeps."""
        return {} if self._player is None else self._player.session.stats

    @property
    def saved(self) -> bool:
        """Whether a store keeps it."""
        return self._saver is not None

    @property
    def saving(self) -> SaverStats | None:
        """What saving has cost so far; None without a store."""
        return None if self._saver is None else self._saver.stats

    def directions(self) -> dict[str, Any]:
        """Return what makes the film again; see ``Session.directions``.

        Raises:
            AsleepError: it has not been played yet.
        """
        if self._player is None and self.past.directions is not None:
            return self.past.directions
        return self.session.directions()

    def file(self) -> tuple[int, Iterator[bytes]]:
        """Return size and contents of the film as an MP4 file; see ``Recording.file``."""
        return self.past.recording.file(self.encoder.head)


def _log_refusal(doing: asyncio.Task[Message]) -> None:
    """Log why an ask was not done whose asker has gone."""
    error = None if doing.cancelled() else doing.exception()
    if error is not None:
        _log.info("not done, and nobody is told: %s", problem_of(error).message)
