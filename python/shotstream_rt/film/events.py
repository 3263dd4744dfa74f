"""What happened in a film, on its way to whoever listens.

Noted under the timeline's lock, told without it: a listener may call the session's methods.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from ..printable import printable
from ..types import Event, EventKind, Place, Receipt

_log = logging.getLogger("shotstream_rt.film.events")

Unshown = Literal["superseded", "late", "cancelled", "failed"]
"""Why a request is not shown."""


class EventLog:
    """Events in order, until they are told.

    Attributes:
        listeners: are called with every event; may be changed at any time.
        waiting: what is not told yet; if there is anything, ``tell`` is due.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[Event], None]] = []
        self.waiting: deque[Event] = deque()

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener`` with every event from now on; returns what ends it."""
        self.listeners.append(listener)

        def stop() -> None:
            if listener in self.listeners:
                self.listeners.remove(listener)

        return stop

    def note(
        self,
        kind: EventKind,
        *,
        place: Place | None = None,
        caption: str = "",
        request: int = 0,
        error: BaseException | None = None,
        took_s: float = 0.0,
    ) -> None:
        """Keep an event until it is told.

        Args:
            kind: see ``Event``, as all others.
            place: where in the film.
            caption: the caption it is about.
            request: ``Receipt.id`` of the request behind it, 0 if there is none.
            error: what failed.
            took_s: seconds that making a chunk took.
        """
        self.waiting.append(
            Event(
                kind=kind, place=place, caption=caption, request=request, error=error,
                time_s=time.perf_counter(), took_s=took_s,
            )
        )  # fmt: skip

    def drop(
        self,
        receipt: Receipt | None,
        state: Unshown,
        caption: str,
        error: BaseException | None = None,
    ) -> None:
        """Decide that a request will not be shown, and note it.

        Args:
            receipt: of the request; None if nobody holds one.
            state: why.
            caption: its caption.
            error: what failed, if anything did.
        """
        if receipt is not None and not receipt.decide(state, error=error):
            return
        number = 0 if receipt is None else receipt.id
        level = logging.WARNING if state in ("late", "failed") else logging.INFO
        _log.log(level, "request %d: %s: %s", number, state, printable(caption[:80]))
        self.note(state, caption=caption, request=number, error=error)

    def tell(self) -> None:
        """Pass on what happened; called without a lock."""
        while self.waiting:
            try:
                event = self.waiting.popleft()
            except IndexError:
                return
            for listener in tuple(self.listeners):
                try:
                    listener(event)
                except Exception:
                    _log.exception("a listener of on_event failed; the film goes on")
