"""Asks that a client has sent: how they are answered, and what becomes of them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, SessionClosedError
from .from_server import Accepted, Applied, Branched, Error, Over
from .server_error import ServerError

_OUTCOMES_KEPT = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """An ask that was accepted.

    Attributes:
        id: of the ask, for ``outcome`` and ``cancel``.
        frame: how many frames the live stream had when it was accepted.
        notes: words of the text that the model does not know, text that was cut off.
    """

    id: str
    frame: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SentAsk:
    """An ask that is not answered yet.

    Attributes:
        id: of the ask.
        text: the message, which is sent again over a new connection.
        answered: comes to ``Accepted`` or ``Branched``.
    """

    id: str
    text: str
    answered: asyncio.Future[Any]


class SentAsks:
    """Used on one event loop's thread."""

    def __init__(self) -> None:
        self._waiting: dict[str, SentAsk] = {}
        self._outcomes: OrderedDict[str, asyncio.Future[Applied | Over]] = OrderedDict()

    @property
    def unanswered(self) -> tuple[SentAsk, ...]:
        """Those that wait for an answer, in the order in which they were sent."""
        return tuple(self._waiting.values())

    def add(self, kind: str, **fields: Any) -> SentAsk:
        """Return a new ask, which waits for its answer until ``drop``.

        Args:
            kind: its type.
            fields: what else it says; those that are None are left out.
        """
        id, loop = secrets.token_hex(8), asyncio.get_running_loop()
        if kind in ("cut", "prompt", "retake", "undo"):
            self._outcomes[id] = loop.create_future()
            while len(self._outcomes) > _OUTCOMES_KEPT:
                self._outcomes.popitem(last=False)
        given = {name: value for name, value in fields.items() if value is not None}
        text = json.dumps({"type": kind, "id": id, **given})
        ask = self._waiting[id] = SentAsk(id, text, loop.create_future())
        return ask

    def drop(self, ask: SentAsk) -> None:
        """Wait for an answer no longer."""
        self._waiting.pop(ask.id, None)

    async def outcome(self, id: str) -> Applied | Over:
        """Return what became of an ask when it is known.

        Raises:
            ConfigError: nothing becomes of such an ask, or it is of too long ago.
            SessionClosedError: nobody will tell.
        """
        if id not in self._outcomes:
            raise ConfigError(
                f"outcome: got the answer to ask {id!r}, wanted that of one of the last "
                f"{_OUTCOMES_KEPT} cuts, prompts, retakes and undos"
            )
        return await asyncio.shield(self._outcomes[id])

    def hear(self, message: Any) -> None:
        """Take what the server says about an ask; anything else is left alone."""
        match message:
            case Accepted(id=id) | Branched(id=id):
                if (ask := self._waiting.get(id)) is not None:
                    _decide(ask.answered, message)
            case Applied(id=id) | Over(id=id):
                if (outcome := self._outcomes.get(id)) is not None:
                    _decide(outcome, message)
            case Error(id=id, code=code, message=text):
                if id is None and code == "too_fast":
                    id = next(iter(self._waiting), None)  # it was not read; answers keep the order
                ask = self._waiting.get(id or "")
                if ask is not None and not ask.answered.done():
                    ask.answered.set_exception(ServerError(code, text))

    def end(self, reason: str) -> None:
        """Let nobody wait any longer.

        Args:
            reason: why no answer comes any more.
        """
        answers = (ask.answered for ask in self._waiting.values())
        for future in (*answers, *self._outcomes.values()):
            if not future.done():
                future.set_exception(SessionClosedError(reason))
                future.exception()  # whoever waits gets it; nobody has to


def _decide(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)
