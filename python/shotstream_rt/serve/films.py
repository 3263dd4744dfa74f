"""The films of one server: opening, finding, watching over and closing them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress

from ..types import Standing
from .admissions import Admissions, look_at
from .film_settings import FilmSettings
from .from_server import EndReason
from .limits import Limits
from .line import Line
from .live_film import LiveFilm
from .logs import about
from .metrics import Metrics
from .open_films import OpenFilms
from .problems import EndingError, FullError, NotFoundError, ServeError
from .quotas import Account, Quotas
from .scheduler import Scheduler
from .shared_model import SharedModel
from .store import Store
from .stored_films import StoredFilms

_log = logging.getLogger("shotstream_rt.serve")

_FINISH_S = 4
"""How long a film may take to finish its chunk when the server ends."""


class Films:
    """Opens, finds and closes films. Used on the event loop's thread.

    Args:
        settings: how films are made.
        limits: of the server.
        metrics: are told what happens; default: new ones, which nobody reads.
        store: where films are kept, and found again; default: they end with the process.

    Attributes:
        ending: whether the server ends; no film is opened any more.
        scheduler: gives the films turns at the device.
        model: makes the films.
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
        self.scheduler = Scheduler(policy=settings.policy)
        self.model = SharedModel(settings, self.scheduler)
        self.line = Line(self.model.capacity)
        self.quotas = Quotas(limits)
        self._open = OpenFilms()
        self._stored = StoredFilms(store, limits.recording_bytes)
        self._admissions = Admissions(settings, self.model, self.line, self._open)
        self._opened = self._creating = 0
        self._first = asyncio.Lock()  # held while a film is opened for who names none
        self._reopening: dict[str, asyncio.Task[LiveFilm]] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}

    # What there is.

    @property
    def unready(self) -> str | None:
        """Why no film can be opened now; None if one can, though there may be too many."""
        if self.ending:
            return "the server ends"
        return None if self.model.ready else "the model is not loaded"

    def capacity(self) -> int:
        """Return how many films can play at one time; of a loaded model."""
        return self.model.capacity()

    def all(self) -> tuple[LiveFilm, ...]:
        """Return every film, the oldest first."""
        return self._open.all()

    async def stored(self) -> tuple[str, ...]:
        """Return the ids of films in the store that are not open here."""
        return tuple(id for id in await self._stored.ids() if id not in self._open)

    @property
    def viewers(self) -> int:
        """How many watch, or wait to, over all films."""
        return self._open.viewers + self._admissions.people

    # Opening.

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
        model = await self.model.get()
        await self._make_room()
        account.check_films()
        id = secrets.token_hex(8)
        self._creating += 1
        account.films += 1
        past = None
        try:
            past = await self._stored.begin(
                id,
                seed,
                owner=account.name,
                parent=None if parent is None else parent.past,
                standing=standing,
                directions=None if parent is None else parent.directions(),
            )
            film = LiveFilm(
                id, model, self.limits, self.metrics, self.scheduler, seed=seed, account=account,
                past=past,
            )  # fmt: skip
        except BaseException:
            account.films -= 1
            if past is not None:
                past.release(delete=True)
            raise
        finally:
            self._creating -= 1
        self._begin(film)
        if self.line.take(film.id):
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
        while not self.ending and len(self._open) + self._creating >= self.limits.sessions:
            spare = [film for film in self.all() if film.saved and film.asleep]
            spare = [film for film in spare if film.id not in self._admissions]
            if not spare:
                raise FullError(
                    f"films: {self.limits.sessions} are open, which is as many as may be; close one"
                )
            unwatched = max(spare, key=lambda film: film.unwatched_s)
            await self.close_film(unwatched, "another film needs its place", "idle")
        if self.ending:
            raise EndingError

    def _begin(self, film: LiveFilm) -> None:
        """Have a film, asleep, from now on; its account counts it already."""
        self._open.add(film)
        self.metrics.opened()
        with about(session=film.id):
            _log.info("film opened")

    # Finding.

    def find(self, id: str) -> LiveFilm:
        """Return a film that is open.

        Raises:
            NotFoundError: there is no such film.
        """
        return self._open.find(id)

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
        if id in self._open:
            return self.find(id)
        if id not in self._reopening:
            task = self._reopening[id] = asyncio.create_task(self._reopen(id))
            task.add_done_callback(look_at)
            task.add_done_callback(lambda _: self._reopening.pop(id))
        return await asyncio.shield(self._reopening[id])

    async def _reopen(self, id: str) -> LiveFilm:
        if not await self._stored.has(id):
            return self.find(id)  # which tells that there is none
        model = await self.model.get()
        await self._make_room()
        self._creating += 1
        past = None
        try:
            past = await self._stored.reopen(id)
            if past is None or past.saved is None:
                return self.find(id)
            state = past.saved.state
            account = self.quotas.account(state.owner)
            film = LiveFilm(
                id, model, self.limits, self.metrics, self.scheduler, seed=state.seed,
                account=account, past=past,
            )  # fmt: skip
        except BaseException:
            if past is not None:
                past.release(delete=False)
            raise
        finally:
            self._creating -= 1
        account.films += 1
        self._begin(film)
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
        await self.model.get()
        async with self._first:
            if not self._open:
                await self.open(owner=owner)
            return self.all()[-1]

    async def admit(self, film: LiveFilm) -> None:
        """Return when a film plays; see ``Admissions.admit``.

        Raises:
            EndingError: it was closed meanwhile, because the server ends.
        """
        try:
            await self._admissions.admit(film)
        except NotFoundError:
            if self.ending:
                raise EndingError from None
            raise

    async def awake(self, id: str) -> LiveFilm:
        """Return a film that plays; one that sleeps is woken if there is room.

        Raises:
            NotFoundError: there is no such film.
            FullError: it would have to wait in line.
        """
        film = await self.reach(id)
        if film.asleep and not self.line.take(film.id):
            raise FullError(f"session: the film {id} waits in line, because others play")
        await self.admit(film)
        return film

    # Watching over.

    async def watch_over(self) -> None:
        """Once a second, without end: see to every film, to who may play, and to who goes on."""
        while True:
            await asyncio.sleep(1)
            for film in self.all():
                try:
                    await self._see_to(film)
                except Exception:
                    _log.exception("the film %s cannot be seen to", film.id)
            self.line.advance()

    async def _see_to(self, film: LiveFilm) -> None:
        """Let a film say how it goes; close it, or let it sleep, if nobody watches."""
        if film.id not in self._open:
            return  # closed meanwhile
        film.tick()
        if film.unwatched_s > self.limits.idle_close_s and film.id not in self._admissions:
            await self.close_film(film, "nobody watched for a long time", "idle")
        elif not film.asleep and film.unwatched_s > self._sleeps_after_s():
            self._admissions.let_sleep(film)

    def _sleeps_after_s(self) -> int:
        """Return after how many seconds without a viewer films sleep: soon if others wait."""
        limits = self.limits
        return min(limits.idle_pause_s, limits.idle_sleep_s) if self.line else limits.idle_sleep_s

    # Closing.

    async def delete(self, id: str) -> None:
        """Close a film, and delete it from the store.

        Raises:
            NotFoundError: there is no such film.
            HeldError: another process runs it.
            StoreError: it cannot be deleted.
        """
        under_way = [tasks[id] for tasks in (self._closing, self._reopening) if id in tasks]
        if under_way:
            await asyncio.wait(under_way)
        if id in self._open or not await self._stored.has(id):
            await self.close_film(self.find(id), "it was closed")
        else:
            await self._stored.delete(id)

    async def close_film(self, film: LiveFilm, message: str, reason: EndReason = "closed") -> None:
        """Close a film and let its viewers go; one that was closed already is left alone.

        Args:
            film: the film.
            message: tells viewers why.
            reason: likewise, for programs; see ``LiveFilm.close``.
        """
        if not self._open.remove(film):
            return
        closing = self._closing[film.id] = asyncio.create_task(self._close(film, message, reason))
        closing.add_done_callback(lambda _: self._closing.pop(film.id))
        await asyncio.shield(closing)

    async def _close(self, film: LiveFilm, message: str, reason: EndReason) -> None:
        film.account.films -= 1
        gone: ServeError = NotFoundError(f"session: the film was closed: {message}")
        if reason == "server":
            gone = EndingError()
        self.line.turn_away(film.id, gone)
        async with film.changing:
            try:
                with about(session=film.id):
                    _log.info("film closed: %s", message)
                    await film.close(message, reason)
            finally:
                self.line.leave(film.id)

    async def drain(self) -> None:
        """Open no more films; let each finish its chunk, save it and close it.

        A model that is still being loaded, or measured, is given up.
        """
        self.ending = True
        await self.model.give_up()
        await asyncio.gather(*(self._end(film, finish=True) for film in self.all()))

    async def _end(self, film: LiveFilm, *, finish: bool) -> None:
        """Close a film because the server ends, before or after it has finished its chunk."""
        try:
            if finish:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_FINISH_S):
                        await film.finish_chunk()
            await self.close_film(film, "the server ends", "server")
        except Exception:
            _log.exception("the film %s does not end as it should", film.id)

    async def close(self) -> None:
        """Close every film and the model."""
        self.ending = True
        for film in self.all():
            await self._end(film, finish=False)
        if self._closing:
            await asyncio.wait({*self._closing.values()})
        await self.model.close()
