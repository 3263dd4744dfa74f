"""The films of one server, and the model that they share."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import ShotStreamError
from ..film.shots import AtEnd
from ..loading.load_model import Model
from ..loading.progress import Cancellation, LoadingCancelled
from ..session import Session, Standing
from ..story import Story
from . import spans
from .from_server import EndReason, Loading
from .limits import Limits
from .line import Line
from .live_film import LiveFilm
from .logs import about
from .metrics import Metrics
from .problems import (
    EndingError,
    FullError,
    NoModelError,
    NotFoundError,
    ServeError,
    StoreError,
)
from .public_names import model_name
from .quotas import Account, Quotas
from .saved_film import SavedFilm
from .scheduler import Policy, Scheduler, places
from .store import FILM_ID, Store
from .throughput import measure

_log = logging.getLogger("shotstream_rt.serve")

_ENDS = "server: it ends; ask for the film again when it is back"
_FINISH_S = 4
"""How long a film may take to finish its chunk when the server ends, and a model to be given up."""


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
        capacity: how many films play at one time; the others wait in line. Default: as many as the
            device plays in real time, measured when the server starts and all the time.
    """

    model: str = "nano"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    at_end: AtEnd = "extend"
    threads: int | None = None
    policy: Policy = "slack"
    capacity: int | None = None


@dataclass(slots=True)
class _Admission:
    """A film on its way to play: in line, or opening its session.

    Attributes:
        task: does it.
        people: how many wait for it; if nobody does any more, it leaves the line.
    """

    task: asyncio.Task[None]
    people: int = 0


class Films:
    """Opens, finds and closes films. Used on the event loop's thread.

    Args:
        settings: how films are made.
        limits: of the server.
        metrics: are told what happens; default: new ones, which nobody reads.
        store: where films are kept, and found again; default: they end with the process.

    Attributes:
        scheduler: gives the films turns at the device.
        line: who plays, and who waits to.
        quotas: what each token has used.
    """

    def __init__(
        self,
        settings: FilmSettings,
        limits: Limits,
        metrics: Metrics | None = None,
        store: Store | None = None,
    ) -> None:
        self.settings, self.limits = settings, limits
        self.metrics = metrics or Metrics()
        self.ending = False
        self._store = store
        self._films: dict[str, LiveFilm] = {}
        self._creating = 0
        self._reopening: dict[str, asyncio.Task[LiveFilm]] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._loading = Cancellation()
        self._opened = 0
        self._begun_s = time.monotonic()
        self._model: asyncio.Task[Model] | None = None
        self._admissions: dict[str, _Admission] = {}
        self._dozing: set[asyncio.Task[None]] = set()
        self.scheduler = Scheduler(policy=settings.policy)
        self.line = Line(self.capacity)
        self.quotas = Quotas(limits)

    def load(self) -> asyncio.Task[Model]:
        """Begin to load the model, or return the task that loads it."""
        if self._model is None:
            self._model = asyncio.create_task(asyncio.to_thread(self._open_model))
        return self._model

    async def model(self) -> Model:
        """Return the model, once it is loaded.

        Raises:
            NoModelError: it cannot be.
            EndingError: the server ends before it is.
        """
        try:
            return await asyncio.shield(self.load())
        except LoadingCancelled:
            raise EndingError(_ENDS) from None
        except ShotStreamError as error:
            raise NoModelError(
                "the model cannot be loaded; the server's own output says why"
            ) from error

    def _open_model(self) -> Model:
        settings = self.settings
        model = Model.open(
            settings.model,
            threads=settings.threads,
            progress=self._loading.tell,
            **settings.options,
        )
        self.scheduler.places = places(model.device, settings.threads)
        if settings.capacity is None:
            try:
                measure(
                    model,
                    self.scheduler.throughput,
                    self.scheduler.places,
                    settings.threads,
                    self._loading,
                )
            except LoadingCancelled:
                model.close()
                raise
        self._frame_rate_hz = model.frame_rate_hz
        _log.info("%d films play at one time, and the others wait in line", self.capacity())
        return model

    def capacity(self) -> int:
        """Return how many films can play at one time; of a loaded model."""
        if self.settings.capacity is not None:
            return self.settings.capacity
        return self.scheduler.throughput.films(self._frame_rate_hz)

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

    def loading(self) -> Loading:
        """Return how far loading is."""
        return Loading(
            model=model_name(self.settings.model),
            seconds=round(time.monotonic() - self._begun_s, 1),
        )

    async def open(self, seed: int | None = None, owner: str = "") -> LiveFilm:
        """Open a new film. It plays at once, or sleeps until there is room and somebody waits.

        Args:
            seed: noise seed; default: the next one.
            owner: name of the token that it is opened with.

        Raises:
            FullError: there are as many films as may be, or as this token may have.
            EndingError: the server ends.
            StoreError: it cannot be saved.
            NoModelError: the model cannot be loaded.
        """
        self._opened += 1
        seed = self.settings.seed + self._opened - 1 if seed is None else seed
        return await self._add(seed, self.quotas.account(owner))

    async def branch(self, film: LiveFilm) -> LiveFilm:
        """Open a film that shares another one's past, for the same token.

        Raises:
            FullError: there are as many films as may be, or as the token may have.
            EndingError: the server ends.
            StoreError: it cannot be saved.
        """
        standing = await asyncio.to_thread(film.session.standing)
        return await self._add(film.seed, film.account, film, standing)

    async def _add(
        self,
        seed: int,
        account: Account,
        parent: LiveFilm | None = None,
        standing: Standing | None = None,
    ) -> LiveFilm:
        model, saved = await self.model(), None
        await self._make_room()
        account.check_films()
        id = secrets.token_hex(8)
        self._creating += 1
        account.films += 1
        try:
            if self._store is not None:
                directions = None if parent is None else parent.directions()
                saved = await asyncio.to_thread(
                    SavedFilm.create, self._store, id, seed, self.limits.recording_bytes,
                    owner=account.name, past=None if parent is None else parent.recording,
                    takes=() if parent is None else parent.takes, standing=standing,
                    film=directions,
                )  # fmt: skip
            film = LiveFilm(
                id, model, self.limits, self.metrics, self.scheduler, seed=seed,
                account=account, parent=parent, saved=saved,
            )  # fmt: skip
        except BaseException:
            account.films -= 1
            if saved is not None:
                saved.end(delete=True)
            raise
        finally:
            self._creating -= 1
        film.snapshot = None if standing is None else standing.snapshot
        self._begin(film)
        if self.line.has_room:
            try:
                await self.admit(film)
            except BaseException:
                await self.close_film(film, "it could not be opened")
                raise
        return film

    async def _make_room(self) -> None:
        """Return when there may be another film.

        A film of the store that sleeps is closed for it: whoever asks for that one opens it again.

        Raises:
            EndingError: the server ends.
            FullError: there are as many as may be.
        """
        while not self.ending and len(self._films) + self._creating >= self.limits.sessions:
            spare = [film for film in self.all() if film.saved and film.asleep]
            spare = [film for film in spare if film.id not in self._admissions]
            if not spare:
                raise FullError(
                    f"films: {self.limits.sessions} are open, which is as many as may be; close one"
                )
            unwatched = max(spare, key=lambda film: film.unwatched_s)
            await self.close_film(unwatched, "another film needs its place", "idle")
        if self.ending:
            raise EndingError(_ENDS)

    def _begin(self, film: LiveFilm) -> None:
        """Have a film, asleep, from now on; its account counts it already."""
        self._films[film.id] = film
        self.metrics.opened()
        with about(session=film.id):
            _log.info("film opened")

    async def reach(self, id: str) -> LiveFilm:
        """Return a film. One that is in the store and was not open sleeps until somebody watches.

        Raises:
            NotFoundError: there is no such film.
            HeldError: another process runs it.
            StoreError: what the store has of it is damaged.
            FullError: there are as many films as may be.
            EndingError: the server ends.
        """
        if id in self._closing:
            await asyncio.wait({self._closing[id]})
        if id in self._films or self._store is None or not FILM_ID.fullmatch(id):
            return self.find(id)
        if id not in self._reopening:
            task = self._reopening[id] = asyncio.create_task(self._reopen(id, self._store))
            task.add_done_callback(_look_at)
            task.add_done_callback(lambda _: self._reopening.pop(id))
        return await asyncio.shield(self._reopening[id])

    async def _reopen(self, id: str, store: Store) -> LiveFilm:
        if await asyncio.to_thread(store.get, id, "state") is None:
            return self.find(id)  # which tells that there is none
        model = await self.model()
        await self._make_room()
        self._creating += 1
        saved = None
        try:
            limit = self.limits.recording_bytes
            saved = await asyncio.to_thread(SavedFilm.reopen, store, id, limit)
            if saved is None:
                return self.find(id)
            account = self.quotas.account(saved.state.owner)
            film = LiveFilm(
                id, model, self.limits, self.metrics, self.scheduler, seed=saved.state.seed,
                account=account, saved=saved,
            )  # fmt: skip
        except BaseException:
            if saved is not None:
                saved.end(delete=False)
            raise
        finally:
            self._creating -= 1
        film.snapshot = saved.snapshot or None
        account.films += 1
        self._begin(film)
        return film

    async def delete(self, id: str) -> None:
        """Close a film, and delete it from the store.

        Raises:
            NotFoundError: there is no such film.
            HeldError: another process runs it.
            StoreError: it cannot be deleted.
        """
        store = self._store
        if id in self._films or store is None or not FILM_ID.fullmatch(id):
            return await self.close_film(self.find(id), "it was closed")
        if await asyncio.to_thread(store.get, id, "state") is None:
            self.find(id)
        lease = await asyncio.to_thread(store.claim, id)
        try:
            await asyncio.to_thread(store.delete, id)
        finally:
            lease.release()

    async def stored(self) -> tuple[str, ...]:
        """Return the ids of films in the store that are not open here."""
        if self._store is None:
            return ()
        found = await asyncio.to_thread(self._store.films)
        return tuple(id for id in found if id not in self._films)

    async def admit(self, film: LiveFilm) -> None:
        """Return when a film plays: at once, or when it has come to its turn in the line.

        Raises:
            NotFoundError: it was closed meanwhile.
            ShotStreamError: it cannot be opened.
        """
        admission = self._admissions.get(film.id)
        if admission is None:
            admission = _Admission(asyncio.create_task(self._admit(film)))
            admission.task.add_done_callback(_look_at)
            self._admissions[film.id] = admission
        admission.people += 1
        try:
            await asyncio.shield(admission.task)
        finally:
            admission.people -= 1
            if admission.people == 0 and self.line.position(film.id):
                self._forget(film, admission.task)
                admission.task.cancel()
        self.find(film.id)

    async def _admit(self, film: LiveFilm) -> None:
        try:
            async with film.changing:
                if film.asleep:
                    self.find(film.id)
                    await self.line.enter(film.id)
                    await self._wake(film)
        finally:
            self._forget(film, asyncio.current_task())

    def _forget(self, film: LiveFilm, task: asyncio.Task[None] | None) -> None:
        """Note that a film's way to play is over; who comes now begins another one."""
        admission = self._admissions.get(film.id)
        if admission is not None and admission.task is task:
            del self._admissions[film.id]

    async def _wake(self, film: LiveFilm) -> None:
        """Open the session of a film that may play."""
        model = await self.model()

        def make() -> Session:
            session = model.session(
                seed=film.seed,
                at_end=self.settings.at_end,
                queue_chunks=1,
                threads=self.settings.threads,
                turn=film.turn,
            )
            try:
                if film.snapshot is not None:
                    session.restore(film.snapshot)
            except ShotStreamError as error:
                session.close()
                raise StoreError(f"film {film.id}: {error}") from error
            return session

        begun_s = time.monotonic()
        try:
            with about(session=film.id):
                film.play(await asyncio.to_thread(make))
        except BaseException:
            self.line.leave(film.id)
            raise
        spans.record("session.open", time.monotonic() - begun_s, session=film.id)

    async def _let_sleep(self, film: LiveFilm) -> None:
        """Let a film sleep that nobody watches; its place goes to the next one in line."""
        async with film.changing:
            try:
                if not film.asleep and await film.sleep():
                    self.line.leave(film.id)
            except ShotStreamError:
                _log.exception("the film %s cannot sleep", film.id)

    def find(self, id: str) -> LiveFilm:
        """Return a film.

        Raises:
            NotFoundError: there is no such film.
        """
        film = self._films.get(id)
        if film is None:
            raise NotFoundError(f"session: there is no film {id!r}; it was closed, or never opened")
        return film

    async def find_or_open(self, id: str | None, owner: str = "") -> LiveFilm:
        """Return a film; without an id the one opened last, or a new one if there is none.

        Args:
            id: of the film.
            owner: name of the token that a new one is opened with.

        Raises:
            NotFoundError: there is no such film.
            NoModelError: the model cannot be loaded.
        """
        if id is not None:
            return await self.reach(id)
        await self.model()
        if not self._films:
            await self.open(owner=owner)
        return next(reversed(self._films.values()))

    async def awake(self, id: str) -> LiveFilm:
        """Return a film that plays; one that sleeps is woken if there is room.

        Raises:
            NotFoundError: there is no such film.
            FullError: it would have to wait in line.
        """
        film = await self.reach(id)
        if film.asleep and not self.line.has_room:
            raise FullError(f"session: the film {id} waits in line, because others play")
        await self.admit(film)
        return film

    def all(self) -> tuple[LiveFilm, ...]:
        """Return every film, the oldest first."""
        return tuple(self._films.values())

    @property
    def viewers(self) -> int:
        """How many watch, or wait to, over all films."""
        watching = sum(len(film.viewers) for film in self._films.values())
        return watching + sum(admission.people for admission in self._admissions.values())

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

    async def close_film(self, film: LiveFilm, message: str, reason: EndReason = "closed") -> None:
        """Close a film and let its viewers go; see ``LiveFilm.close``."""
        if self._films.pop(film.id, None) is None:
            return
        closing = self._closing[film.id] = asyncio.create_task(self._close(film, message, reason))
        closing.add_done_callback(lambda _: self._closing.pop(film.id))
        await asyncio.shield(closing)

    async def _close(self, film: LiveFilm, message: str, reason: EndReason) -> None:
        film.account.films -= 1
        gone: ServeError = NotFoundError(f"session: the film was closed: {message}")
        if reason == "server":
            gone = EndingError(_ENDS)
        self.line.turn_away(film.id, gone)
        async with film.changing:
            with about(session=film.id):
                _log.info("film closed: %s", message)
                await film.close(message, reason)
            self.line.leave(film.id)

    async def watch_over(self) -> None:
        """Once a second, without end: see to every film, to who may play, and to who goes on."""
        while True:
            await asyncio.sleep(1)
            for film in self.all():
                try:
                    await self._see_to(film)
                except ShotStreamError:
                    _log.exception("the film %s cannot be seen to", film.id)
            self.line.advance()

    async def _see_to(self, film: LiveFilm) -> None:
        """Let a film say how it goes; close it, or let it sleep, if nobody watches."""
        if film.id not in self._films:
            return  # closed meanwhile
        film.tick()
        if film.unwatched_s > self.limits.idle_close_s and film.id not in self._admissions:
            await self.close_film(film, "nobody watched for a long time", "idle")
        elif not film.asleep and film.unwatched_s > self._sleeps_after_s():
            dozing = asyncio.create_task(self._let_sleep(film))
            self._dozing.add(dozing)
            dozing.add_done_callback(self._dozing.discard)

    def _sleeps_after_s(self) -> int:
        """Return after how many seconds without a viewer films sleep: soon if others wait."""
        limits = self.limits
        return min(limits.idle_pause_s, limits.idle_sleep_s) if self.line else limits.idle_sleep_s

    async def drain(self) -> None:
        """Open no more films; let each finish its chunk, save it and close it.

        A model that is still being loaded, or measured, is given up.
        """
        self.ending = True
        self._loading.cancel()
        if self._model is not None:
            await asyncio.wait({self._model}, timeout=_FINISH_S)
        await asyncio.gather(*(self._end(film) for film in self.all()))

    async def _end(self, film: LiveFilm) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FINISH_S):
                    await film.finish_chunk()
            await self.close_film(film, "the server ends", "server")
        except Exception:
            _log.exception("the film %s does not end as it should", film.id)

    async def close(self) -> None:
        """Close every film and the model."""
        self.ending = True
        self._loading.cancel()
        for film in self.all():
            await self.close_film(film, "the server ends", "server")
        if self._closing:
            await asyncio.wait({*self._closing.values()})
        if self._model is not None:
            try:
                model = await self._model
            except (ShotStreamError, LoadingCancelled):
                return
            await asyncio.to_thread(model.close)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Look at how a film's way to play ended, although nobody may wait for it any more."""
    if not task.cancelled():
        task.exception()
