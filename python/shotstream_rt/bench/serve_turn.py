"""One turn of a load test: films are opened on a server, watched for a while, and closed."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from shotstream_rt.errors import ShotStreamError

from .serve_player import Player, PlayerLog
from .serve_process import ServerProcess

_log = logging.getLogger("shotstream_rt.bench")

_PATIENCE_S = 300
_SETTLE_S = 2.0
"""Seconds between the moment at which everybody sees something and the span that is judged."""
_TOLD_S = 30
KEPT_FRAMES = 24
"""Frames of the first film that are kept, to see whether it is the right film."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPlan:
    """What happens in a turn.

    Attributes:
        sessions: films.
        viewers: of each film, one of whom directs.
        seconds: length of the span that is judged.
        cut_every_s: seconds from cut to cut, of the films in turn; 0: a film is one shot.
        texts: what is asked for, in turn.
        seed: of the first film; every further one counts it up.
    """

    sessions: int
    viewers: int
    seconds: float
    cut_every_s: tuple[int, ...]
    texts: tuple[str, ...]
    seed: int


@dataclass(slots=True, kw_only=True)
class Turn:
    """What was seen in a turn.

    Attributes:
        begin_s: begin of the span that is judged, on the clock of ``time.monotonic``.
        end_s: its end.
        films: of each film what its players noted; who directs is the first.
        cpu_s: CPU time of the server within the span; None where it cannot be read.
        loop_cpu_s: that of its thread which talks with the viewers.
        memory: seconds since ``begin_s`` and MiB that the server held, once a second.
        stats: what the server told of its first film.
    """

    begin_s: float = 0.0
    end_s: float = 0.0
    films: list[list[PlayerLog]] = field(default_factory=list)
    cpu_s: float | None = None
    loop_cpu_s: float | None = None
    memory: list[tuple[float, float]] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)


def play_turn(server: ServerProcess, plan: TurnPlan) -> Turn:
    """Play a turn.

    Args:
        server: has no films.
        plan: what happens.

    Raises:
        ShotStreamError: the server opens no films or ends, or nobody sees anything.
    """
    try:
        return asyncio.run(_Stage(server, plan).play())
    except httpx.HTTPError as error:
        raise ShotStreamError(
            f"serve: {server.address.http} cannot be reached ({type(error).__name__}: {error})"
        ) from error


class _Stage:
    def __init__(self, server: ServerProcess, plan: TurnPlan) -> None:
        self._server, self._plan = server, plan
        self._http = httpx.AsyncClient(
            base_url=server.address.http, timeout=_PATIENCE_S,
            headers={"Authorization": f"Bearer {server.address.token}"},
        )  # fmt: skip
        self._films: list[list[Player]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._turn = Turn()

    async def play(self) -> Turn:
        plan, turn = self._plan, self._turn
        async with self._http:
            ids = [await self._open(plan.seed + number) for number in range(plan.sessions)]
            try:
                await self._gather(ids)
                await asyncio.sleep(_SETTLE_S)
                await self._watch()
                answer = await self._http.get(f"/v1/sessions/{ids[0]}")
                turn.stats = answer.json().get("stats", {})
            finally:
                await asyncio.gather(*(player.stop() for film in self._films for player in film))
                await asyncio.gather(*self._tasks)
                for id in ids:
                    await self._http.delete(f"/v1/sessions/{id}")
        turn.films = [[player.log for player in film] for film in self._films]
        return turn

    async def _open(self, seed: int) -> str:
        """Open a film and return its id."""
        answer = await self._http.post("/v1/sessions", json={"seed": seed})
        if answer.status_code != 201:
            raise ShotStreamError(
                f"serve: opening a film was answered with {answer.status_code}: {answer.text[:300]}"
            )
        return str(answer.json()["id"])

    async def _gather(self, ids: Sequence[str]) -> None:
        """Let all who direct come, then the others; return when everybody sees something.

        The first one comes before the rest, so that its film, which is checked, is not in a queue.
        """
        plan, address = self._plan, self._server.address
        for number, id in enumerate(ids):
            texts = plan.texts[number % len(plan.texts) :] + plan.texts[: number % len(plan.texts)]
            keep = 0 if self._films else KEPT_FRAMES
            self._films.append([Player(address, id, texts=texts, keep_frames=keep)])
        directors = [film[0] for film in self._films]
        await self._notice(directors[:1])
        if not directors[0].log.arrivals_s:
            why = directors[0].log.errors or ["it waits in the queue of a server without others"]
            raise ShotStreamError(f"serve: the first film does not play: {why[0]}")
        await self._notice(directors[1:])
        for film, id in zip(self._films, ids, strict=True):
            film += [Player(address, id) for _ in range(plan.viewers - 1)]
        await self._notice([player for film in self._films for player in film[1:]])

    async def _notice(self, players: Sequence[Player]) -> None:
        self._tasks += [asyncio.create_task(player.run()) for player in players]
        try:
            async with asyncio.timeout(_PATIENCE_S):
                for player in players:
                    await player.noticed.wait()
        except TimeoutError:
            raise ShotStreamError(
                f"serve: after {_PATIENCE_S} s a player has neither a frame nor a place in the "
                "queue"
            ) from None

    async def _watch(self) -> None:
        """Let the span that is judged pass."""
        plan, turn, server = self._plan, self._turn, self._server
        turn.begin_s = time.monotonic()
        turn.end_s = turn.begin_s + plan.seconds
        cpu_s, loop_cpu_s = server.cpu_s(), server.loop_cpu_s()
        cutting = [
            asyncio.create_task(self._cut(film[0], every_s, number / plan.sessions))
            for number, (film, every_s) in enumerate(
                zip(self._films, itertools.cycle(plan.cut_every_s), strict=False)
            )
            if every_s
        ]
        told_s = 0.0
        try:
            while (now_s := time.monotonic()) < turn.end_s:
                since_s = now_s - turn.begin_s
                if (held := server.resident_mib()) is not None:
                    turn.memory.append((since_s, held))
                if since_s >= told_s + _TOLD_S:
                    told_s = since_s
                    self._tell(since_s)
                await asyncio.sleep(min(1.0, turn.end_s - now_s))
        finally:
            for task in cutting:
                task.cancel()
        if cpu_s is not None and loop_cpu_s is not None:
            turn.cpu_s = (server.cpu_s() or 0.0) - cpu_s
            turn.loop_cpu_s = (server.loop_cpu_s() or 0.0) - loop_cpu_s

    async def _cut(self, director: Player, every_s: int, part: float) -> None:
        """Cut again and again; the films do so one after the other."""
        await asyncio.sleep(every_s * (0.5 + 0.5 * part))
        while True:
            # Who waits in the queue has nothing to cut, and what is checked ends with the first.
            if len(director.log.numbers) >= KEPT_FRAMES:
                await director.cut()
            await asyncio.sleep(every_s)

    def _tell(self, since_s: float) -> None:
        logs = [player.log for film in self._films for player in film]
        frames = sum(len(film[0].log.numbers) for film in self._films)
        _log.info(
            "%.0f of %.0f s: %d frames of %d films, %d errors", since_s, self._plan.seconds,
            frames, len(self._films), sum(len(log.errors) for log in logs),
        )  # fmt: skip
