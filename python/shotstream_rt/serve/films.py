"""The films of one server, and the model that they share."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import ShotStreamError
from ..film.shots import AtEnd
from ..film.turn import Turn
from ..loading.load_model import Model
from ..session import Session
from ..story import Story
from . import spans
from .from_server import Loading
from .limits import Limits
from .live_film import LiveFilm
from .logs import about
from .metrics import Metrics
from .problems import FullError, NoModelError, NotFoundError
from .public_names import model_name
from .scheduler import Policy, Scheduler, places

_log = logging.getLogger("shotstream_rt.serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmSettings:
    """How films are made.

    Attributes:
        model: ``nano`` or a checkpoint folder.
        options: of ``Model.open``.
        seed: noise seed of the first film; every further one counts it up.
        at_end: what a shot of trained length does when nothing is queued; see ``Session``.
        threads: CPU threads of a film; default: torch's own choice.
        policy: who computes next where films wait for one another; see ``scheduler.py``.
    """

    model: str = "nano"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    at_end: AtEnd = "extend"
    threads: int | None = None
    policy: Policy = "slack"


class Films:
    """Opens, finds and closes films. Used on the event loop's thread.

    Args:
        settings: how films are made.
        limits: of the server.
        metrics: are told what happens; default: new ones, which nobody reads.
    """

    def __init__(
        self, settings: FilmSettings, limits: Limits, metrics: Metrics | None = None
    ) -> None:
        self.settings, self.limits = settings, limits
        self.metrics = metrics or Metrics()
        self.ending = False
        self._films: dict[str, LiveFilm] = {}
        self._opening = 0
        self._opened = 0
        self._begun_s = time.monotonic()
        self._model: asyncio.Task[Model] | None = None
        self.scheduler = Scheduler(policy=settings.policy)

    def load(self) -> asyncio.Task[Model]:
        """Begin to load the model, or return the task that loads it."""
        if self._model is None:
            self._model = asyncio.create_task(asyncio.to_thread(self._open_model))
        return self._model

    def _open_model(self) -> Model:
        settings = self.settings
        model = Model.open(settings.model, threads=settings.threads, **settings.options)
        self.scheduler.places = places(model.device, settings.threads)
        return model

    async def model(self) -> Model:
        """Return the model, once it is loaded.

        Raises:
            NoModelError: it cannot be.
        """
        try:
            return await asyncio.shield(self.load())
        except ShotStreamError as error:
            raise NoModelError(
                "the model cannot be loaded; the server's own output says why"
            ) from error

    @property
    def loaded(self) -> bool:
        """Whether loading has ended, in a model or in an error."""
        return self._model is not None and self._model.done()

    @property
    def unready(self) -> str | None:
        """Why no film can be opened now; None if one can, though there may be too many."""
        if self.ending:
            return "the server ends"
        if self._model is None or not self._model.done() or self._model.exception() is not None:
            return "the model is not loaded"
        return None

    @property
    def waiting(self) -> int:
        """How many wait for a film to be opened."""
        return self._opening

    def loading(self) -> Loading:
        """Return how far loading is."""
        return Loading(
            model=model_name(self.settings.model),
            seconds=round(time.monotonic() - self._begun_s, 1),
        )

    async def open(self, seed: int | None = None) -> LiveFilm:
        """Open a new film.

        Args:
            seed: noise seed; default: the next one.

        Raises:
            FullError: there are as many films as may be.
            NoModelError: the model cannot be loaded.
        """
        self._opened += 1
        seed = self.settings.seed + self._opened - 1 if seed is None else seed

        def make(model: Model, turn: Turn) -> Session:
            return model.session(
                seed=seed,
                at_end=self.settings.at_end,
                queue_chunks=1,
                threads=self.settings.threads,
                turn=turn,
            )

        return await self._add(make, None)

    async def branch(self, film: LiveFilm) -> LiveFilm:
        """Open a film that shares another one's past.

        Raises:
            FullError: there are as many films as may be.
        """
        return await self._add(lambda _, turn: film.session.branch(turn=turn), film)

    async def _add(
        self, make: Callable[[Model, Turn], Session], parent: LiveFilm | None
    ) -> LiveFilm:
        if len(self._films) + self._opening >= self.limits.sessions:
            raise FullError(
                f"films: {self.limits.sessions} are open, which is as many as may be; close one"
            )
        self._opening += 1
        id, begun_s = secrets.token_hex(4), time.monotonic()
        try:
            model = await self.model()
            with about(session=id):
                film = LiveFilm(id, model, self.limits, self.metrics, self.scheduler, parent)
                try:
                    film.play(await asyncio.to_thread(make, model, film.turn))
                except BaseException:
                    film.encoder.close()
                    raise
                _log.info("film opened")
            self._films[id] = film
            self.metrics.opened()
            spans.record("session.open", time.monotonic() - begun_s, session=id)
            return film
        finally:
            self._opening -= 1

    def find(self, id: str) -> LiveFilm:
        """Return a film.

        Raises:
            NotFoundError: there is no such film.
        """
        film = self._films.get(id)
        if film is None:
            raise NotFoundError(f"session: there is no film {id!r}; it was closed, or never opened")
        return film

    async def find_or_open(self, id: str | None) -> LiveFilm:
        """Return a film; without an id the one opened last, or a new one if there is none.

        Raises:
            NotFoundError: there is no such film.
            NoModelError: the model cannot be loaded.
        """
        if id is not None:
            return self.find(id)
        await self.model()
        if not self._films:
            await self.open()
        return next(reversed(self._films.values()))

    def all(self) -> tuple[LiveFilm, ...]:
        """Return every film, the oldest first."""
        return tuple(self._films.values())

    @property
    def viewers(self) -> int:
        """How many watch, over all films."""
        return sum(len(film.viewers) for film in self._films.values())

    @property
    def suggestions(self) -> tuple[str, ...]:
        """Three texts to begin with, which nano knows the words of."""
        story = Story.bundled()
        if self.settings.model != "nano":
            return tuple(story.captions[:3])
        return (
            "Wide shot: a red cat walks right on a beach.",
            "Close-up: a blue robot with a yellow hat stands still in a forest.",
            "Medium shot: a green bunny jumps in a city.",
        )

    async def close_film(self, film: LiveFilm, reason: str) -> None:
        """Close a film and let its viewers go."""
        if self._films.pop(film.id, None) is not None:
            with about(session=film.id):
                _log.info("film closed: %s", reason)
                await film.close(reason)

    async def watch_over(self) -> None:
        """Once a second, without end: see to every film, close those that nobody comes back to."""
        while True:
            await asyncio.sleep(1)
            for film in self.all():
                film.tick()
                if film.unwatched_s > self.limits.idle_close_s:
                    await self.close_film(film, "nobody watched for a long time")

    async def close(self) -> None:
        """Close every film and the model."""
        self.ending = True
        for film in self.all():
            await self.close_film(film, "the server ends")
        if self._model is not None:
            try:
                model = await self._model
            except ShotStreamError:
                return
            await asyncio.to_thread(model.close)
