"""Log lines as JSON, for programs that collect them, each with the film and the ask it is about.

Whoever begins something says what it is about once (``about``); lines of other threads that work
for it, such as those that make the film, carry it too.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_MOST_CHARACTERS = 4000

_session: ContextVar[str | None] = ContextVar("shotstream_session", default=None)
_ask: ContextVar[str | None] = ContextVar("shotstream_ask", default=None)

_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
"""What a record has without ``extra``."""


@contextmanager
def about(session: str | None = None, ask: str | None = None) -> Iterator[None]:
    """Let the lines of what is enclosed say which film and which ask they are about.

    Args:
        session: id of the film; None leaves what was said before.
        ask: id of the ask, likewise.
    """
    said = [
        (what, what.set(value))
        for what, value in ((_session, session), (_ask, ask))
        if value is not None
    ]
    try:
        yield
    finally:
        for what, before in said:
            what.reset(before)


def session_id() -> str | None:
    """Return the film that the calling code is about, if that was said."""
    return _session.get()


class JsonLines(logging.Formatter):
    """Makes one JSON object of a record: ``time`` (UTC), ``level``, ``logger``, ``message``.

    ``session`` and ``ask`` stand beside them where they are known, what the call gave as ``extra``,
    and ``error``, the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_MOST_CHARACTERS],
        }
        known = {"session": _session.get(), "ask": _ask.get()}
        told |= {name: id for name, id in known.items() if id is not None}
        told |= {k: v for k, v in vars(record).items() if k not in _OF_EVERY_RECORD}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)[-_MOST_CHARACTERS:]
        return json.dumps(told, default=str)


def use_json(level: int) -> None:
    """Let all handlers of the process write JSON.

    Args:
        level: lowest level that is written.
    """
    root = logging.getLogger()
    root.setLevel(level)
    for handler in root.handlers:
        handler.setFormatter(JsonLines())
    # At its lower levels it tells of every socket, with the address that was asked for.
    logging.getLogger("uvicorn").setLevel(max(level, logging.WARNING))
