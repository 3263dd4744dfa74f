"""Asks of a client: what is answered, and what becomes of them."""

from __future__ import annotations

import asyncio

import pytest

from shotstream_rt.errors import ConfigError, SessionClosedError
from shotstream_rt.serve.from_server import Accepted, Error, Over
from shotstream_rt.serve.sent_asks import SentAsks
from shotstream_rt.serve.server_error import ServerError


def test_answers_and_outcomes_find_their_asks() -> None:
    async def steps() -> None:
        asks = SentAsks()
        cut, pause = asks.add("cut", text="a", images=None), asks.add("pause")
        assert asks.unanswered == (cut, pause)
        assert "images" not in cut.text
        asks.hear(Accepted(id=cut.id, frame=3))
        asks.hear(Error(id=pause.id, code="refused", message="no"))
        assert (await cut.answered).frame == 3
        with pytest.raises(ServerError, match="no"):
            await pause.answered
        asks.drop(cut)
        assert asks.unanswered == (pause,)
        asks.hear(Over(id=cut.id, state="cancelled"))
        assert (await asks.outcome(cut.id)).id == cut.id

    asyncio.run(steps())


def test_nobody_waits_behind_the_end() -> None:
    async def steps() -> None:
        asks = SentAsks()
        cut = asks.add("cut", text="a")
        asks.end("the film has ended")
        for waited in (cut.answered, asks.outcome(cut.id)):
            with pytest.raises(SessionClosedError, match="the film has ended"):
                await waited

    asyncio.run(steps())


def test_the_outcome_of_what_has_none_is_refused() -> None:
    async def steps() -> None:
        asks = SentAsks()
        pause, old = asks.add("pause"), asks.add("cut", text="a")
        for _ in range(256):
            asks.add("cut", text="a")
        for id in (pause.id, old.id, "other"):
            with pytest.raises(ConfigError, match="wanted that of one of the last 256"):
                await asks.outcome(id)

    asyncio.run(steps())
