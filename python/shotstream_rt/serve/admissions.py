"""How films come to be played, at once or through the line, and how they go to sleep again."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from ..errors import ShotStreamError
from ..loading.load_model import Model
from ..session import Session
from . import spans
from .film_settings import FilmSettings
from .line import Line
from .live_film import LiveFilm
from .logs import about
from .open_films import OpenFilms
from .problems import StoreError
from .shared_model import SharedModel

_log = logging.getLogger("shotstream_rt.serve")


@dataclass(slots=True)
class _Admission:
    """A film on its way to play: in line, or opening its session.

    Attributes:
        task: does it.
        people: how many wait for it; if nobody does any more, it leaves the line.
    """

    task: asyncio.Task[None]
    people: int = 0


class Admissions:
    """Lets films play and sleep. Used on the event loop's thread.

    Args:
        settings: how films are made.
        model: makes them.
        line: who plays, and who waits to.
        films: those that are open; a film that is not is let in no more.
    """

    def __init__(
        self, settings: FilmSettings, model: SharedModel, line: Line, films: OpenFilms
    ) -> None:
        self._settings, self._model, self._line, self._films = settings, model, line, films
        self._under_way: dict[str, _Admission] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __contains__(self, id: str) -> bool:
        """Whether a film is on its way to play."""
        return id in self._under_way

    @property
    def people(self) -> int:
        """How many wait for a film to play."""
        return sum(admission.people for admission in self._under_way.values())

    async def admit(self, film: LiveFilm) -> None:
        """Return when a film plays: at once, or when it has come to its turn in the line.

        Raises:
            NotFoundError: it was closed meanwhile.
            ShotStreamError: it cannot be opened.
        """
        admission = self._under_way.get(film.id)
        if admission is None:
            admission = _Admission(asyncio.create_task(self._admit(film)))
            admission.task.add_done_callback(look_at)
            self._under_way[film.id] = admission
        admission.people += 1
        try:
            await asyncio.shield(admission.task)
        finally:
            admission.people -= 1
            if admission.people == 0 and self._line.position(film.id):
                self._forget(film, admission.task)
                admission.task.cancel()
        self._films.find(film.id)

    async def _admit(self, film: LiveFilm) -> None:
        try:
            async with film.changing:
                if film.asleep:
                    self._films.find(film.id)
                    await self._line.enter(film.id)
                    await self._wake(film)
        finally:
            self._forget(film, asyncio.current_task())

    def _forget(self, film: LiveFilm, task: asyncio.Task[None] | None) -> None:
        """Note that a film's way to play is over; who comes now begins another one."""
        admission = self._under_way.get(film.id)
        if admission is not None and admission.task is task:
            del self._under_way[film.id]

    async def _wake(self, film: LiveFilm) -> None:
        """Open the session of a film that may play."""
        model, begun_s = await self._model.get(), time.monotonic()
        try:
            with about(session=film.id):
                film.play(await asyncio.to_thread(self._session, model, film))
        except BaseException:
            self._line.leave(film.id)
            raise
        spans.record("session.open", time.monotonic() - begun_s, session=film.id)

    def _session(self, model: Model, film: LiveFilm) -> Session:
        """Return a session that goes on with a film; this waits for the device."""
        session = model.session(
            seed=film.seed,
            at_end=self._settings.at_end,
            queue_chunks=1,
            threads=self._settings.threads,
            turn=film.turn,
        )
        try:
            if film.past.snapshot is not None:
                session.restore(film.past.snapshot)
        except ShotStreamError as error:
            session.close()
            raise StoreError(f"film {film.id}: {error}") from error
        return session

    def let_sleep(self, film: LiveFilm) -> None:
        """Begin to let a film sleep that nobody watches; its place goes to the next one in line."""
        task = asyncio.create_task(self._let_sleep(film))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _let_sleep(self, film: LiveFilm) -> None:
        async with film.changing:
            try:
                if not film.asleep:
                    await film.sleep()
            except Exception:
                _log.exception("the film %s cannot sleep", film.id)
            if film.asleep:
                self._line.leave(film.id)


def look_at(task: asyncio.Task[Any]) -> None:
    """Look at how a task ended that nobody may wait for any more: else asyncio logs its error."""
    if not task.cancelled():
        task.exception()
