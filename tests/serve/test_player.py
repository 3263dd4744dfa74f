"""A player without a model: what it tells of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from shotstream_rt.errors import SessionClosedError, ShotStreamError
from shotstream_rt.serve.fragments import FragmentEncoder
from shotstream_rt.serve.metrics import Metrics
from shotstream_rt.serve.pace import Pace
from shotstream_rt.serve.player import Player
from shotstream_rt.serve.recording import Recording
from shotstream_rt.serve.samples import TemporarySamples
from shotstream_rt.serve.scheduler import Scheduler

from ..patience import PATIENCE_S


class FailingSession:
    """A session that makes no frame; its failures are raised one after the other, as they came."""

    def __init__(self) -> None:
        self.failed: BaseException | None = None
        self.closed = False
        self._failures: SimpleQueue[BaseException | None] = SimpleQueue()

    def fail(self, error: BaseException) -> None:
        """Let making frames fail."""
        self.failed = error
        self._failures.put(error)

    def stream(self, *, follow: bool) -> Iterator[Any]:
        """Raise the next failure, and yield nothing."""
        error = self._failures.get()
        if error is None:
            raise SessionClosedError("the session is closed")
        raise ShotStreamError(f"computing failed: {error}") from error
        yield

    def on_event(self, listener: object) -> Callable[[], None]:
        """Tell of nothing."""
        return lambda: None

    async def aclose(self) -> None:
        """End."""
        self.closed = True
        self._failures.put(None)


def test_each_failure_is_told_once_although_another_ask_was_between() -> None:
    async def steps() -> None:
        session: Any = FailingSession()
        told: list[str] = []
        encoder = FragmentEncoder(height=96, width=160, frame_rate_hz=16)
        player = Player(
            session,
            film="film",
            first=0,
            encoder=encoder,
            recording=Recording(TemporarySamples(2**20)),
            saver=None,
            pace=Pace(Scheduler(), 16),
            metrics=Metrics(),
            show=lambda played: None,
            fail=lambda error: told.append(str(error)),
            settle=lambda: None,
        )
        session.fail(ValueError("one"))
        while not told:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.15)  # nothing is repeated meanwhile
        session.failed = None  # somebody asks for something
        session.fail(ValueError("two"))  # which fails before the player looks
        while len(told) < 2:
            await asyncio.sleep(0.01)
        assert told == ["computing failed: one", "computing failed: two"]
        await player.close()
        encoder.close()

    asyncio.run(asyncio.wait_for(steps(), PATIENCE_S))
