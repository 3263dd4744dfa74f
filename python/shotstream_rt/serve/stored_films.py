"""Where a server keeps its films: in its store, or for as long as they are open.

Whatever waits for a disk is done on a thread, and the event loop goes on.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..types import Standing
from .film_past import FilmPast
from .saved_film import SavedFilm
from .store import FILM_ID, Store


class StoredFilms:
    """The films that a server has in its store. Used on the event loop's thread.

    Args:
        store: keeps films; None for none: they are in temporary files, and end with the process.
        limit_bytes: largest size of a film's recording.
    """

    def __init__(self, store: Store | None, limit_bytes: int) -> None:
        self._store, self._limit_bytes = store, limit_bytes

    async def ids(self) -> tuple[str, ...]:
        """Return the ids of all films, in order.

        Raises:
            StoreError: the store cannot be read.
        """
        return () if self._store is None else await asyncio.to_thread(self._store.films)

    async def has(self, id: str) -> bool:
        """Return whether there is a film of a name; any text may be asked for.

        Raises:
            StoreError: the store cannot be read.
        """
        if self._store is None or not FILM_ID.fullmatch(id):
            return False
        return await asyncio.to_thread(self._store.get, id, "state") is not None

    async def begin(
        self,
        id: str,
        seed: int,
        *,
        owner: str,
        parent: FilmPast | None = None,
        standing: Standing | None = None,
        directions: dict[str, Any] | None = None,
    ) -> FilmPast:
        """Return the past of a new film, which is in the store from here on.

        Args:
            id: of the film.
            seed: noise seed of its session, 0 to 2**63 - 1.
            owner: name of the token that it is opened with.
            parent: past of a film that it goes on from.
            standing: where that film stands.
            directions: what makes that film again.

        Raises:
            HeldError: another process has a film of that name.
            StoreError: the store cannot be written.
        """
        if self._store is not None:
            saved = await asyncio.to_thread(
                SavedFilm.create,
                self._store,
                id,
                seed,
                self._limit_bytes,
                owner=owner,
                past=None if parent is None else parent.recording,
                takes=() if parent is None else tuple(parent.takes),
                standing=standing,
                film=directions,
            )
            return FilmPast.of(saved)
        if parent is not None and standing is not None:
            return parent.branch(standing.snapshot)
        return FilmPast.new(self._limit_bytes)

    async def reopen(self, id: str) -> FilmPast | None:
        """Return the past of a film, with the right to write to it; None if there is none.

        Raises:
            HeldError: another process runs it.
            StoreError: what the store has of it is damaged.
        """
        if self._store is None:
            return None
        limit = self._limit_bytes
        saved = await asyncio.to_thread(SavedFilm.reopen, self._store, id, limit)
        return None if saved is None else FilmPast.of(saved)

    async def delete(self, id: str) -> None:
        """Delete a film that is not open here.

        Raises:
            HeldError: another process runs it.
            StoreError: it cannot be deleted.
        """
        if self._store is not None:
            lease = await asyncio.to_thread(self._store.claim, id)
            try:
                await asyncio.to_thread(self._store.delete, id)
            finally:
                lease.release()
