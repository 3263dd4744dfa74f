"""Steps that tests take with a server's films, and what they look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from shotstream_rt.serve.film_settings import FilmSettings
from shotstream_rt.serve.films import Films
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.live_film import LiveFilm
from shotstream_rt.serve.saved_film import SavedState, _unpacked
from shotstream_rt.serve.store import FolderStore, Store
from shotstream_rt.serve.viewer import Viewer

from ..patience import PATIENCE_S

CAT = "Wide shot: a red cat walks right on a beach."

Steps = Callable[[Films], Coroutine[Any, Any, None]]


def run(steps: Steps, *, store: Store | None = None, capacity: int = 100) -> None:
    """Take steps with the films of a server, and close them."""

    async def all_steps() -> None:
        settings = FilmSettings(threads=1, seed=7, capacity=capacity)
        films = Films(settings, Limits(), store=store)
        await films.model.get()
        try:
            await asyncio.wait_for(steps(films), PATIENCE_S)
        finally:
            await films.close()

    asyncio.run(all_steps())


def join(films: Films, film: LiveFilm) -> Viewer:
    """Watch a film."""
    viewer = Viewer(films.limits, films.metrics)
    film.join(viewer)
    return viewer


def state_of(store: FolderStore, film: LiveFilm) -> SavedState:
    """What a store has of a film."""
    data = store.get(film.id, "state")
    assert data is not None
    return _unpacked(film.id, data)[0]


async def outcomes_of(films: Films, film: LiveFilm) -> list[str]:
    """What is told of the last asks to who comes back."""
    viewer = Viewer(films.limits, films.metrics)
    film.tell_outcomes(viewer)
    viewer.close()
    told = []
    while (item := await viewer.next()) is not None:
        assert isinstance(item, str)
        told.append(item)
    return told
