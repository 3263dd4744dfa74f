"""The films that a server has open: those that play, wait in line or sleep."""

from __future__ import annotations

from .live_film import LiveFilm
from .problems import NotFoundError


class OpenFilms:
    """Finds films by their ids. Used on the event loop's thread."""

    def __init__(self) -> None:
        self._films: dict[str, LiveFilm] = {}

    def __len__(self) -> int:
        return len(self._films)

    def __contains__(self, id: str) -> bool:
        return id in self._films

    def find(self, id: str) -> LiveFilm:
        """Return a film.

        Raises:
            NotFoundError: there is no such film.
        """
        film = self._films.get(id)
        if film is None:
            raise NotFoundError(f"session: there is no film {id!r}; it was closed, or never opened")
        return film

    def all(self) -> tuple[LiveFilm, ...]:
        """Return every film, the one opened first before the others."""
        return tuple(self._films.values())

    @property
    def viewers(self) -> int:
        """How many watch, over all films."""
        return sum(len(film.viewers) for film in self._films.values())

    def add(self, film: LiveFilm) -> None:
        """Have a film from now on."""
        self._films[film.id] = film

    def remove(self, film: LiveFilm) -> bool:
        """Have a film no longer, and tell whether it was here."""
        return self._films.pop(film.id, None) is not None
