"""A server's films, where something fails or several people come at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.film_pause import FilmPause
from shotstream_rt.serve.film_settings import FilmSettings
from shotstream_rt.serve.films import Films
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.live_film import LiveFilm
from shotstream_rt.serve.player import Player
from shotstream_rt.serve.problems import StoreError
from shotstream_rt.serve.store import FolderStore, Store
from shotstream_rt.serve.viewer import Viewer
from shotstream_rt.session import Session

from ..patience import PATIENCE_S

pytestmark = pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)

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


# Pausing and sleeping.


def test_a_film_that_may_not_be_made_stays_paused_when_somebody_comes() -> None:
    async def steps(films: Films) -> None:
        session, pause = (await films.open()).session, FilmPause(asked=False)
        pause.hold(session)  # nobody watches
        pause.stop(session)  # meanwhile its token has used up what it may
        pause.let_go(session)  # somebody watches
        assert session.state.paused
        assert pause

    run(steps)


def test_a_film_that_does_not_get_to_sleep_goes_on_when_somebody_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def steps(films: Films) -> None:
        film = await films.open()
        monkeypatch.setattr(Player, "all_read", False)
        assert not await film.sleep()
        assert film.session.state.paused
        join(films, film)
        assert not film.session.state.paused

    run(steps)


def test_a_film_of_which_no_snapshot_can_be_taken_stays_awake(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(session: Session) -> bytes:
        raise RuntimeError("out of memory")

    async def steps(films: Films) -> None:
        film = await films.open()
        monkeypatch.setattr(Session, "snapshot", fail)
        films._admissions.let_sleep(film)
        while "cannot sleep" not in caplog.text and not film.asleep:
            await asyncio.sleep(0.01)
        async with film.changing:
            assert not film.asleep
        join(films, film)
        assert not film.session.state.paused

    run(steps)


# Coming at once.


# Closing.


class _FullStore(FolderStore):
    """A store that cannot delete."""

    def delete(self, film: str) -> None:
        """Fail."""
        raise StoreError("store: it cannot be written")
