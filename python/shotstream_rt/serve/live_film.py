"""A film that is made and watched at once: one session, paced, encoded once, for all viewers.

While nobody watches it for long, or before it has come to its turn in the line, a film sleeps: it
has no session, only its snapshot.

One thread (``_play``) reads the session's frames, waits until each is due, encodes it and hands it
to the event loop. Everything else happens on the loop's thread: viewers, recording, what became of
the asks.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import SessionClosedError, ShotStreamError
from ..loading.load_model import Model
from ..session import Session
from ..types import Event, Frame, Receipt
from . import spans
from .asks import ask
from .fragments import FragmentEncoder, Sample, fragment
from .from_server import (
    Accepted,
    Applied,
    Branched,
    Ended,
    EndReason,
    Failed,
    Kept,
    Memory,
    Over,
    RememberedFrame,
    Stats,
    Take,
    Takes,
)
from .from_viewer import (
    Ask,
    Cancel,
    Check,
    Cut,
    Forget,
    Glass,
    Pause,
    Pin,
    Prompt,
    Resume,
    Retake,
    Undo,
    Unpin,
)
from .limits import Limits
from .message import Message
from .metrics import Metrics
from .pending_asks import PendingAsks
from .pictures import small_picture
from .problems import NotReadyError, StoreError, problem_of
from .quotas import Account
from .recording import Change, Recording
from .samples import TemporarySamples
from .saved_film import SavedFilm
from .saver import Saver, SaverStats
from .scheduler import Scheduler
from .viewer import Viewer

_log = logging.getLogger("shotstream_rt.serve")

_SLACK_S = 0.1
"""How late a frame may be before the clock that frames are due by is moved."""
_LOOK_S = 0.02
_SHOWN_S = 1
"""How long the last frames that were recorded may take to be shown when a film ends."""
_WINDOW_S = 30
"""Seconds that the play ratio is about."""
_GOES_ON = Cut | Prompt | Retake | Undo | Resume
"""Asks that a film may have waited for."""
_ANSWERS_KEPT = 1024
_OUTCOMES_KEPT = 64
_TAKES_KEPT = 200
"""Takes whose first pictures are kept for who joins later."""


@dataclass(frozen=True, slots=True)
class _Played:
    """A frame that is due, encoded."""

    frame: Frame
    number: int
    sample: Sample
    change: Change
    take: Take | None
    late_s: float


class _Shown(NamedTuple):
    """A fragment that was sent: its number in the live stream, and whether it is a key frame."""

    number: int
    key: bool
    data: bytes


class AsleepError(NotReadyError):
    """A film has no session now."""


class LiveFilm:
    """One film with its viewers. It sleeps until ``play``.

    Args:
        id: names it in addresses.
        model: makes it.
        limits: of the server.
        metrics: are told what happens.
        scheduler: gives its session turns at the device.
        seed: noise seed.
        account: of the token that it was opened with.
        parent: the film whose past it shares.
        saved: what a store has of it, and where it is saved; default: it is not.

    Attributes:
        opened_s: when it was opened, in seconds since 1970: comparable between servers.
        turn: what its session is to ask before each chunk.
        snapshot: what its next session goes on from; None for a new film.
        changing: held while it wakes or goes to sleep.
        viewers: who watches; nobody while it sleeps.
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
        parent: LiveFilm | None = None,
        saved: SavedFilm | None = None,
    ) -> None:
        self.id, self.seed, self.account = id, seed, account
        self.opened_s = time.time()
        self.snapshot: bytes | None = None
        self.changing = asyncio.Lock()
        self._session: Session | None = None
        self._directions = None if saved is None else saved.film
        self._limits, self._metrics = limits, metrics
        self._loop = asyncio.get_running_loop()
        height, width = model.size
        self.encoder = FragmentEncoder(
            height=height, width=width, frame_rate_hz=model.frame_rate_hz
        )
        self.turn = scheduler.turn(self._next_due_s, frame_rate_hz=model.frame_rate_hz)
        if saved is not None:
            self.recording = saved.recording
        elif parent is not None:
            self.recording = parent.recording.branch()
        else:
            self.recording = Recording(TemporarySamples(limits.recording_bytes))
        past = saved.takes if saved is not None else parent.takes if parent is not None else ()
        self._takes: deque[Take] = deque(past, maxlen=_TAKES_KEPT)
        self.viewers: set[Viewer] = set()
        self._shown: deque[_Shown] = deque()
        self._frame_rate_hz = model.frame_rate_hz
        self._frames = self._encoded = 0 if saved is None else saved.state.frames
        self._saved_frames = self._encoded_before = self._encoded
        self._pending = PendingAsks(self._tell_outcome, metrics)
        self._outcomes: deque[Applied | Over] = deque(maxlen=_OUTCOMES_KEPT)
        self._answers: OrderedDict[str, Message] = OrderedDict()
        self._asking = asyncio.Lock()
        self._memory: Memory | None = None
        self._remembered: tuple[tuple[int, int, bool], ...] = ()
        self._remembering: asyncio.Task[None] | None = None
        self._sent: deque[tuple[float, float]] = deque()  # when frames were sent, and how late
        self._asked_s, self._due_s = time.monotonic(), 0.0
        self._unwatched_since_s = time.monotonic()
        self._held = False  # paused for want of viewers
        self._asked_to_pause = saved is not None and saved.state.paused
        self._ended = threading.Event()
        self._saved, self._saver = saved, None if saved is None else Saver(saved)
        if saved is not None:
            self._answers.update((answer.id, answer) for answer in saved.state.answers)
            self._outcomes.extend(saved.state.told())
            for number, sample in saved.recording.last_shown():
                data = fragment(self.encoder.head, number, number, sample)
                self._shown.append(_Shown(number, sample.key, data))

    @property
    def asleep(self) -> bool:
        """Whether it has no session."""
        return self._session is None

    @property
    def session(self) -> Session:
        """What makes it.

        Raises:
            AsleepError: it sleeps.
        """
        if self._session is None:
            raise AsleepError(f"session: the film {self.id} sleeps; watch it, and it goes on")
        return self._session

    def play(self, session: Session) -> None:
        """Begin, or go on, to show what a session makes.

        Args:
            session: asks ``turn`` and has restored ``snapshot``; closed with the film, or when it
                goes to sleep.
        """
        if self._asked_to_pause:
            session.pause()
        self._session, self._held, self._due_s = session, False, 0.0
        self._encoded_before = self._encoded
        if self._saver is not None:
            self._saver.begin(session)
        self._asked_s = self._unwatched_since_s = time.monotonic()
        self.turn.hurry()
        self._unlisten = session.on_event(self._on_event)
        self._player = threading.Thread(
            # In the context of who opened the film, so that log lines say which one it is.
            target=contextvars.copy_context().run,
            args=(self._play, session),
            name=f"shotstream-live-{self.id}",
            daemon=True,
        )
        self._player.start()

    async def sleep(self) -> bool:
        """Keep the film as its snapshot and free its session; nobody may be watching.

        Returns:
            Whether it sleeps; not as long as frames wait to be shown, of which a snapshot would
            have to leave some out.
        """
        session = self.session
        if self.viewers:
            return False
        session.pause()
        state = session.state
        if state.making or state.unread_frames or self.turn.busy:
            return False
        self._session = None  # who comes now waits, and wakes it
        try:
            self.snapshot = await asyncio.to_thread(session.snapshot)
            self._directions = session.directions()
        except ShotStreamError:
            self._session = session
            raise
        if self._saver is not None:
            await asyncio.to_thread(self._saver.rest)
        self._unlisten()
        self._pending.forget()
        await session.aclose()
        await asyncio.to_thread(self._player.join)
        return True

    def _next_due_s(self) -> float:
        """Return when the next frame that is read is due; called on the session's threads.

        A film that waited for its director is due when it is asked.
        """
        return max(self._due_s, self._asked_s)

    # On the player's thread.

    def _play(self, session: Session) -> None:
        """Read, pace and encode until the session is closed."""
        interval_s = 1 / self._frame_rate_hz
        chunk: tuple[int, int, int] | None = None
        while not self._ended.is_set():
            try:
                for frame in session.stream(follow=True):
                    now_s = time.monotonic()
                    late_s = now_s - self._next_due_s() if self._due_s else 0.0
                    played = self._encode(frame, self._encoded, late_s=max(0.0, late_s))
                    begun, chunk = chunk, (frame.shot, frame.take, frame.chunk)
                    if self._saver is not None and begun != chunk:
                        self._saver.wake()  # before it is shown: it is safe by then
                    if now_s > self._due_s + _SLACK_S:
                        self._due_s = now_s
                    else:
                        self._ended.wait(max(0.0, self._due_s - time.monotonic()))
                    self._post(self._show, played)  # what was recorded is shown, also at the end
                    self._encoded += 1
                    if self._ended.is_set():
                        return
                    self._due_s += interval_s
            except SessionClosedError:
                return
            except ShotStreamError as error:
                self._post(self._tell_failure, error)
                while session.failed is not None and not session.closed:
                    if self._ended.wait(0.1):
                        return
            except Exception as error:
                _log.exception("the film %s cannot go on", self.id)
                self._post(self._tell_failure, error)
                return

    def _encode(self, frame: Frame, number: int, *, late_s: float) -> _Played:
        """Encode and keep a frame as soon as it was read, so that a branch has all of the past."""
        change = self.recording.place(frame)
        sample = self.encoder.encode(frame.pixels, key=not change.follows)
        take = None
        if change.begins_take:
            take = Take(
                shot=frame.shot,
                take=frame.take,
                frame=number,
                index=frame.index,
                caption=frame.caption,
                picture=small_picture(frame.pixels),
            )
            if self._saver is not None:
                self._saver.takes.append(take)
        self.recording.add(frame, sample, number)
        return _Played(frame, number, sample, change, take, late_s)

    def _on_event(self, event: Event) -> None:
        self._metrics.hear(event)
        if event.kind == "chunk_made" and event.place is not None:
            place = event.place
            spans.record("chunk", event.took_s, session=self.id, shot=place.shot, chunk=place.chunk)
        if event.kind in ("superseded", "late", "cancelled", "failed"):
            self._post(self._pending.settle)

    def _post(self, call: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            self._ended.set()  # the server's loop is over

    # On the event loop's thread.

    def _show(self, played: _Played) -> None:
        """Hand a frame to everybody."""
        frame, sample = played.frame, played.sample
        now_s = time.monotonic()
        self._metrics.frame(played.late_s)
        self._sent.append((now_s, played.late_s))
        while self._sent[0][0] < now_s - _WINDOW_S:
            self._sent.popleft()
        self._frames = played.number + 1
        self.account.film_s += 1 / self._frame_rate_hz
        self._pending.sent(played.number, frame)
        data = fragment(self.encoder.head, played.number, played.number, sample)
        if sample.key:
            self._forget_shown()
        self._shown.append(_Shown(played.number, sample.key, data))
        for viewer in self.viewers:
            viewer.show(data, key=sample.key)
        if played.take is not None:
            self._takes.append(played.take)
            self.broadcast(played.take)
        if played.change.dropped:
            self.broadcast(self._kept())
        self._pending.settle()

    def _forget_shown(self) -> None:
        """Keep what was sent since the last key frame, for who comes back; a new one comes now."""
        keys = [shown.number for shown in self._shown if shown.key]
        while self._shown and self._shown[0].number < (keys[-1] if keys else 0):
            self._shown.popleft()

    async def do(
        self,
        message: Ask,
        branch: Callable[[LiveFilm], Awaitable[LiveFilm]] | None = None,
    ) -> Message:
        """Do what a director asks for, once for every id, and return the answer.

        Args:
            message: the ask.
            branch: opens a film that shares this one's past; for a ``Branch``.

        Raises:
            ShotStreamError: it was refused.
        """
        # Whoever asks may go away meanwhile; what is done is answered all the same, and kept.
        return await asyncio.shield(asyncio.ensure_future(self._do_once(message, branch)))

    async def _do_once(
        self, message: Ask, branch: Callable[[LiveFilm], Awaitable[LiveFilm]] | None
    ) -> Message:
        async with self._asking:
            if message.id in self._answers:
                return self._answers[message.id]
            with nullcontext() if self._saver is None else self._saver.asking():
                if branch is not None:
                    other = await branch(self)
                    answer: Accepted | Branched = Branched(id=message.id, session=other.id)
                else:
                    answer = await self._do(message)
                self._answers[message.id] = answer
                while len(self._answers) > _ANSWERS_KEPT:
                    self._answers.popitem(last=False)
                if self._saver is not None:
                    self._saver.paused = self._asked_to_pause
                    self._saver.pending = self._pending.ids
                    self._saver.answered(answer)
            if self._saver is not None and not isinstance(message, Check | Glass):
                try:
                    await asyncio.to_thread(self._saver.save)
                except StoreError:
                    _log.warning("film %s: an ask was answered and is not saved", self.id)
            return answer

    async def _do(self, message: Ask) -> Accepted:
        if isinstance(message, Cut | Prompt | Retake | Undo | Resume):
            self.account.check_film_s()
        asked_s = time.monotonic()
        if isinstance(message, _GOES_ON):
            self._asked_s = asked_s
            if not self.begun:
                for viewer in self.viewers:
                    viewer.wait_from(asked_s)
        if isinstance(message, Cancel):
            receipt = self._pending.receipt(message.ask)
            taken_back = receipt is not None and self.session.cancel(receipt)
            return Accepted(
                id=message.id,
                frame=self._frames,
                notes=() if taken_back else ("it has begun, or is over",),
            )
        if isinstance(message, Glass):
            self._pending.seen(message.ask, message.ms / 1000)
            return Accepted(id=message.id, frame=self._frames)
        first = self._frames
        self.turn.hurry()
        result = await asyncio.to_thread(ask, self.session, message, self._limits)
        if isinstance(message, Pause | Resume):
            self._asked_to_pause, self._held = isinstance(message, Pause), False
        if isinstance(result, Receipt):
            self._pending.add(message.id, result, asked_s, first)
            self._loop.call_soon(self._pending.settle)  # after the answer: it may be shown already
        if isinstance(message, Pin | Unpin | Forget):
            self.refresh_memory()
        return Accepted(id=message.id, frame=self._frames, notes=tuple(result))

    def refresh_memory(self) -> None:
        """Find out what the next cut will see, and tell it if that changed."""
        if self._remembering is None or self._remembering.done():
            self._remembering = self._loop.create_task(self._refresh_memory())

    async def _refresh_memory(self) -> None:
        try:
            seen = await asyncio.to_thread(lambda: self.session.memory)
        except (SessionClosedError, AsleepError):
            return
        found = tuple((frame.shot, frame.index, frame.pinned) for frame in seen)
        if found == self._remembered:
            return
        self._remembered = found
        self._memory = Memory(
            frames=tuple(
                RememberedFrame(
                    shot=frame.shot,
                    index=frame.index,
                    pinned=frame.pinned,
                    picture=small_picture(frame.picture),
                )
                for frame in seen
            )
        )
        self.broadcast(self._memory)

    def join(self, viewer: Viewer, after: int | None = None) -> None:
        """Let a viewer watch: what there is, then the picture from a key frame on.

        Args:
            viewer: who watches.
            after: number of the last frame that it has: it gets what comes behind that, from the
                key frame on that it needs for it. Default, and where that is too long ago: the
                last key frame.
        """
        if self._takes:
            viewer.tell(Takes(takes=tuple(self._takes)))
            viewer.tell(self._kept())
        if self._memory is not None:
            viewer.tell(self._memory)
        viewer.tell(self.stats())
        viewer.begin(self.encoder.head.data, self._shown_from(after))
        self.viewers.add(viewer)
        self._metrics.joined()
        if self._held:
            self._held, self._asked_s = False, time.monotonic()
            self.turn.hurry()
            self.session.resume()

    def tell_outcomes(self, viewer: Viewer) -> None:
        """Tell a viewer what became of the last asks: it may come back and have missed it."""
        for outcome in self._outcomes:
            viewer.tell(outcome)

    def _tell_outcome(self, outcome: Applied | Over) -> None:
        self._outcomes.append(outcome)
        if self._saver is not None:
            self._saver.outcomes, self._saver.pending = tuple(self._outcomes), self._pending.ids
        self.broadcast(outcome)

    def _shown_from(self, after: int | None) -> list[bytes]:
        keys = [shown.number for shown in self._shown if shown.key]
        wanted = [key for key in keys if after is not None and key <= after + 1]
        first = max(wanted or keys[-1:], default=0)
        return [shown.data for shown in self._shown if shown.number >= first]

    def leave(self, viewer: Viewer) -> None:
        """Stop showing to a viewer."""
        self.viewers.discard(viewer)
        self._unwatched_since_s = time.monotonic()

    def broadcast(self, message: Message) -> None:
        """Tell every viewer."""
        text = message.model_dump_json()
        for viewer in self.viewers:
            viewer.tell(text)

    def tick(self) -> None:
        """Once a second: tell how it goes; pause a film that nobody watches."""
        now_s = time.monotonic()
        for viewer in tuple(self.viewers):
            if viewer.has_gone(now_s):
                self.leave(viewer)
        if self.asleep:
            return
        self.broadcast(self.stats())
        if self.viewers:
            self.refresh_memory()
        if self.account.used_up and not self._asked_to_pause:
            self._asked_to_pause = True
            self.session.pause()
            self._tell_failure(self.account.why_used_up)
        if (
            self.unwatched_s > self._limits.idle_pause_s
            and not self._held
            and not self._asked_to_pause
        ):
            self._held = True
            self.session.pause()

    @property
    def unwatched_s(self) -> float:
        """Seconds for which nobody has watched."""
        return 0.0 if self.viewers else time.monotonic() - self._unwatched_since_s

    @property
    def begun(self) -> bool:
        """Whether the film has a shot, or one was asked for."""
        return bool(self._takes or self._pending or self.snapshot is not None)

    def stats(self) -> Stats:
        """Return how the film is doing."""
        session, idle = self._session, True
        if session is not None and not session.closed:
            idle = session.state.idle
        paused = self._held or self._asked_to_pause
        played_s = len(self._sent) / self._frame_rate_hz
        late_s = sum(late_s for _, late_s in self._sent)
        return Stats(
            frames=self._frames,
            play_ratio=round(played_s / (played_s + late_s), 4) if self._sent else 1.0,
            state="asleep"
            if session is None
            else "paused"
            if paused
            else "waiting"
            if idle
            else "playing",
            viewers=len(self.viewers),
            recorded_frames=len(self.recording),
            recording_full=self.recording.full,
        )

    @property
    def times(self) -> dict[str, Any]:
        """What the session chose and how long it took; nothing while it sleeps."""
        return {} if self._session is None else self._session.stats

    def directions(self) -> dict[str, Any]:
        """Return what makes the film again; see ``Session.directions``.

        Raises:
            AsleepError: it has not been played yet.
        """
        if self._session is None and self._directions is not None:
            return self._directions
        return self.session.directions()

    def file(self) -> Any:
        """Return size and contents of the film as an MP4 file; see ``Recording.file``."""
        return self.recording.file(self.encoder.head)

    def _kept(self) -> Kept:
        return Kept(takes=self.recording.takes())

    def _tell_failure(self, error: BaseException) -> None:
        self.broadcast(Failed(kind=type(error).__name__, message=problem_of(error).message))
        self._pending.settle()

    @property
    def frames(self) -> int:
        """How many frames the live stream has shown."""
        return self._frames

    @property
    def takes(self) -> tuple[Take, ...]:
        """The takes so far, the oldest first; of a long film the last ones."""
        return tuple(self._takes)

    @property
    def saved(self) -> bool:
        """Whether a store keeps it."""
        return self._saved is not None

    @property
    def saving(self) -> SaverStats | None:
        """What saving has cost so far; None without a store."""
        return None if self._saver is None else self._saver.stats

    async def finish_chunk(self) -> None:
        """Begin no further chunk, and wait until those that were begun have been shown."""
        session = self._session
        if session is None:
            return
        self._held = True
        session.pause()
        while not session.closed and session.failed is None:
            state = session.state
            if not (state.making or state.unread_frames):
                standing = await asyncio.to_thread(session.standing)
                if self._frames == self._encoded_before + standing.reads:
                    return
            await asyncio.sleep(_LOOK_S)

    async def close(self, message: str, reason: EndReason = "closed") -> None:
        """End the film and let its viewers go; a store keeps it, unless ``reason`` is ``closed``.

        Args:
            message: tells viewers why.
            reason: likewise, for programs.
        """
        self._ended.set()
        if self._saver is not None:
            await asyncio.to_thread(self._saver.close)
            with suppress(TimeoutError):
                async with asyncio.timeout(_SHOWN_S):
                    while self._frames < self._saved_frames + self.recording.added:
                        await asyncio.sleep(_LOOK_S)
        self.broadcast(Ended(message=message, reason=reason))
        for viewer in self.viewers:
            viewer.close()
        if self._session is not None:
            self._unlisten()
            await self._session.aclose()
            await asyncio.to_thread(self._player.join)
        self.encoder.close()
        if self._saved is not None:
            await asyncio.to_thread(self._saved.end, delete=reason == "closed")
