"""A film while it is awake: its session, and the thread that plays what that makes.

The thread reads the session's frames, encodes and records each as soon as it was read, waits until
it is due and hands it to the event loop. What was recorded is shown, also when the film ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import SessionClosedError, ShotStreamError
from ..session import Session
from ..types import Event, Frame
from . import spans
from .fragments import FragmentEncoder, Sample
from .from_server import Take
from .metrics import Metrics
from .pace import Pace
from .pictures import small_picture
from .recording import Change, Recording
from .saver import Saver

_log = logging.getLogger("shotstream_rt.serve")

_LOOK_S = 0.1
"""Seconds between two looks whether a film that failed goes on."""


@dataclass(frozen=True, slots=True)
class Played:
    """A frame that is due.

    Attributes:
        frame: which it is, and its pixels.
        number: of the frame in the live stream.
        sample: the frame, encoded.
        change: how it fits into the film.
        take: the take that begins with it; None for any other frame.
        late_s: seconds by which it came later than it was due, 0 or more.
    """

    frame: Frame
    number: int
    sample: Sample
    change: Change
    take: Take | None
    late_s: float


class Player:
    """Plays one session from where it is until it is closed; begins at once.

    The arguments that are functions are called on the event loop's thread, where everything else
    but the player's own thread runs too.

    Args:
        session: makes the film; closed with the player.
        film: id of the film, for the log.
        first: number in the live stream of the first frame.
        encoder: of the film.
        recording: of the film.
        saver: saves the film; None if no store has it.
        pace: of the film.
        metrics: are told what the session tells.
        show: takes each frame when it is due.
        fail: takes what ended the making of the film.
        settle: called when something that was asked for may be over.
    """

    def __init__(
        self,
        session: Session,
        *,
        film: str,
        first: int,
        encoder: FragmentEncoder,
        recording: Recording,
        saver: Saver | None,
        pace: Pace,
        metrics: Metrics,
        show: Callable[[Played], None],
        fail: Callable[[BaseException], None],
        settle: Callable[[], None],
    ) -> None:
        self.session, self._film, self._first, self._number = session, film, first, first
        self._encoder, self._recording, self._saver = encoder, recording, saver
        self._pace, self._metrics = pace, metrics
        self._show, self._fail, self._settle = show, fail, settle
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._unlisten = session.on_event(self._hear)
        self._thread = threading.Thread(
            # In the context of who opened the film, so that log lines say which one it is.
            target=contextvars.copy_context().run,
            args=(self._play,),
            name=f"shotstream-live-{film}",
            daemon=True,
        )
        self._thread.start()

    @property
    def all_read(self) -> bool:
        """Whether the session makes no chunk now, and every frame that it has made was read."""
        state = self.session.state
        return not (state.making or state.unread_frames)

    async def read(self) -> int:
        """Return how many frames the live stream has, all in all, when those read are shown."""
        standing = await asyncio.to_thread(self.session.standing)
        return self._first + standing.reads

    def end(self) -> None:
        """Read no further frame, and wait for none to be due."""
        self._ended.set()

    async def close(self) -> None:
        """Close the session, and return when the thread has handed over its last frame."""
        self._unlisten()
        await self.session.aclose()
        await asyncio.to_thread(self._thread.join)

    # On the player's thread.

    def _play(self) -> None:
        while not self._ended.is_set():
            try:
                self._play_on()
            except SessionClosedError:
                return
            except ShotStreamError as error:
                self._post(self._fail, error)
                failed = error.__cause__
                # Until something is asked for. Another failure, of that, is told too, and at once.
                while failed is not None and self.session.failed is failed:
                    if self.session.closed or self._ended.wait(_LOOK_S):
                        return
            except Exception as error:
                _log.exception("the film %s cannot go on", self._film)
                self._post(self._fail, error)
                return

    def _play_on(self) -> None:
        """Read, encode and pace until the player ends.

        Raises:
            SessionClosedError: the session is closed.
            ShotStreamError: the film failed.
        """
        chunk: tuple[int, int, int] | None = None
        for frame in self.session.stream(follow=True):
            now_s = time.monotonic()
            played = self._encode(frame, self._pace.late_s(now_s))
            begun, chunk = chunk, (frame.shot, frame.take, frame.chunk)
            if self._saver is not None and begun != chunk:
                self._saver.wake()  # before it is shown: it is safe by then
            self._pace.wait(now_s, self._ended)
            self._post(self._show, played)
            self._number += 1
            if self._ended.is_set():
                return
            self._pace.advance()

    def _encode(self, frame: Frame, late_s: float) -> Played:
        """Encode and keep a frame as soon as it was read, so that a branch has all of the past."""
        number, change = self._number, self._recording.place(frame)
        sample = self._encoder.encode(frame.pixels, key=not change.follows)
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
        self._recording.add(frame, sample, number)
        return Played(frame, number, sample, change, take, late_s)

    def _hear(self, event: Event) -> None:
        """Take note of what the session tells; on one of its threads."""
        self._metrics.hear(event)
        if event.kind == "chunk_made" and event.place is not None:
            place = event.place
            spans.record(
                "chunk", event.took_s, session=self._film, shot=place.shot, chunk=place.chunk
            )
        if event.kind in ("superseded", "late", "cancelled", "failed"):
            self._post(self._settle)

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            self._ended.set()  # the server's loop is over
