"""The asks of a film of which it is not known yet what becomes of them."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError
from ..types import Frame, Place, Receipt, RequestKind, RequestState
from . import spans
from .from_server import Applied, Over
from .logs import about, session_id
from .metrics import Metrics
from .problems import problem_of

_log = logging.getLogger("shotstream_rt.serve")

_SHOWN = 64
"""Asks that are shown, of which it may still be told when somebody saw it."""
_RECENT = 64
"""Frames sent in which an ask's effect is looked for: more than are sent while it is taken."""


@dataclass(slots=True)
class _Pending:
    """An ask.

    Attributes:
        id: the viewer's name for it.
        receipt: tells what becomes of it.
        asked_s: monotonic time of its arrival.
        first: number in the live stream of the first frame that it can have changed.
    """

    id: str
    receipt: Receipt
    asked_s: float
    first: int


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame that was sent: its number in the live stream, where it is in the film, and when."""

    number: int
    place: Place
    at_s: float


class PendingAsks:
    """Finds the frame that first shows an ask, and tells what became of every ask once.

    Args:
        tell: called with the messages ``Applied`` and ``Over``.
        metrics: are told, too.
    """

    def __init__(self, tell: Callable[[Applied | Over], None], metrics: Metrics) -> None:
        self._tell, self._metrics = tell, metrics
        self._asks: list[_Pending] = []
        self._recent: deque[_Sent] = deque(maxlen=_RECENT)
        self._shown: OrderedDict[str, tuple[RequestKind, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._asks)

    @property
    def ids(self) -> tuple[str, ...]:
        """The viewers' names of the asks."""
        return tuple(pending.id for pending in self._asks)

    def add(self, id: str, receipt: Receipt, asked_s: float, first: int) -> None:
        """Follow an ask.

        Args:
            id: the viewer's name for it.
            receipt: what the session returned.
            asked_s: monotonic time of its arrival.
            first: number in the live stream of the first frame that it can have changed.
        """
        self._asks.append(_Pending(id, receipt, asked_s, first))

    def receipt(self, id: str) -> Receipt | None:
        """Return the receipt of an ask that is not decided."""
        return next((pending.receipt for pending in self._asks if pending.id == id), None)

    def forget(self) -> None:
        """Follow none any more, and say so: the session that would tell of them is closed."""
        forgotten, self._asks = self._asks, []
        for pending in forgotten:
            self._tell(Over(id=pending.id, state="untold"))

    def sent(self, number: int, frame: Frame) -> None:
        """Note that a frame was sent, as number ``number`` of the live stream."""
        place = Place(frame.shot, frame.take, frame.chunk, frame.index)
        self._recent.append(_Sent(number, place, time.monotonic()))

    def settle(self) -> None:
        """Tell what became of asks, as far as it is known now."""
        for pending in list(self._asks):
            receipt = pending.receipt
            if receipt.state == "waiting" or pending not in self._asks:
                continue
            if receipt.state != "applied":
                self._asks.remove(pending)
                self._decided(pending, receipt.state)
                reason = "" if receipt.error is None else problem_of(receipt.error).message
                self._tell(Over(id=pending.id, state=receipt.state, message=reason))
            elif (sent := self._first_shown(pending)) is not None:
                self._pass_over(pending)
                place, after_s = sent.place, sent.at_s - pending.asked_s
                self._decided(pending, "applied", after_s)
                self._shown[pending.id] = receipt.kind, after_s
                while len(self._shown) > _SHOWN:
                    self._shown.popitem(last=False)
                self._tell(
                    Applied(
                        id=pending.id,
                        kind=receipt.kind,
                        shot=place.shot,
                        take=place.take,
                        chunk=place.chunk,
                        frame=sent.number,
                        index=place.index,
                        after_ms=round(after_s * 1000, 1),
                    )
                )

    def seen(self, id: str, after_s: float) -> None:
        """Take note of when somebody saw what an ask did; once for every ask.

        Args:
            id: the viewer's name for it.
            after_s: seconds from asking to seeing it.

        Raises:
            ConfigError: it is not one that was shown, or took longer here alone.
        """
        if id not in self._shown:
            raise ConfigError(f"glass: ask {id!r} is not shown yet, or was told of already")
        kind, sent_s = self._shown[id]
        if after_s < sent_s:
            raise ConfigError(
                f"glass: got {1000 * after_s:.0f} ms, wanted at least the {1000 * sent_s:.0f} that "
                "went by here"
            )
        del self._shown[id]
        self._metrics.glass(kind, after_s)
        spans.record("ask.glass", after_s, kind=kind, ask=id, session=session_id() or "")

    def _decided(self, pending: _Pending, state: RequestState, after_s: float = 0.0) -> None:
        """Tell operators what became of an ask; arguments as of ``Metrics.outcome``."""
        kind, took_s = pending.receipt.kind, after_s or time.monotonic() - pending.asked_s
        self._metrics.outcome(kind, state, after_s)
        spans.record(
            "ask", took_s, kind=kind, state=state, ask=pending.id, session=session_id() or ""
        )
        with about(ask=pending.id):
            _log.info("%s: %s", kind, state, extra={"kind": kind, "after_ms": round(1000 * took_s)})

    def _first_shown(self, pending: _Pending) -> _Sent | None:
        """Return the frame at the place where an ask took effect, once it was sent."""
        wanted = pending.receipt.place
        assert wanted is not None, "what is applied has a place"
        for sent in self._recent:
            place = sent.place
            if sent.number >= pending.first and (place.shot, place.take, place.index) == (
                wanted.shot, wanted.take, wanted.index,
            ):  # fmt: skip
                return sent
        return None

    def _pass_over(self, applied: _Pending) -> None:
        """Tell of asks before one that is shown now, which it went ahead of."""
        at = self._asks.index(applied)
        before, self._asks = self._asks[:at], self._asks[at + 1 :]
        for pending in reversed(before):
            if pending.receipt.state == "applied" and self._first_shown(pending) is None:
                self._decided(pending, "superseded")
                self._tell(Over(id=pending.id, state="superseded"))
            else:
                self._asks.insert(0, pending)
