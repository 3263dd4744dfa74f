"""A server's films, where something fails or several people come at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.film_pause import FilmPause
from shotstream_rt.serve.film_settings import FilmSettings
from shotstream_rt.serve.films import Films
from shotstream_rt.serve.from_server import Over
from shotstream_rt.serve.from_viewer import Cut, Pause
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


def test_what_becomes_of_an_ask_is_untold_where_its_film_sleeps_before() -> None:
    async def steps(films: Films) -> None:
        film = await films.open()
        viewer = join(films, film)
        await film.do(Pause(type="pause", id="a"))
        await film.do(Cut(type="cut", id="b", text="Wide shot: a red cat walks right on a beach."))
        film.leave(viewer)
        assert await film.sleep()
        viewer = Viewer(films.limits, films.metrics)
        film.tell_outcomes(viewer)
        viewer.close()
        told = await viewer.next()
        assert isinstance(told, str)
        assert Over.model_validate_json(told) == Over(id="b", state="untold")
        assert await viewer.next() is None

    run(steps)


def test_what_fails_with_one_film_does_not_end_the_watch_over_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def steps(films: Films) -> None:
        broken, seen = await films.open(), asyncio.Event()

        def tick(film: LiveFilm) -> None:
            if film is broken:
                raise RuntimeError("broken")
            seen.set()

        await films.open()
        monkeypatch.setattr(LiveFilm, "tick", tick)
        watching = asyncio.create_task(films.watch_over())
        await asyncio.wait(
            {watching, asyncio.create_task(seen.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        assert not watching.done()
        watching.cancel()

    run(steps)


# Coming at once.


def test_of_films_that_are_opened_at_once_those_without_room_sleep() -> None:
    async def steps(films: Films) -> None:
        opened = await asyncio.gather(films.open(), films.open())
        assert [film.asleep for film in opened] == [False, True]
        assert films.line.playing == 1
        assert len(films.line) == 0

    run(steps, capacity=1)


def test_who_names_no_film_gets_the_same_one_as_others_who_come_at_once(tmp_path: Path) -> None:
    async def steps(films: Films) -> None:
        found = await asyncio.gather(films.find_or_open(None), films.find_or_open(None))
        assert found[0] is found[1]
        assert films.all() == (found[0],)

    run(steps, store=FolderStore(tmp_path))


# Closing.


class _FullStore(FolderStore):
    """A store that cannot delete."""

    def delete(self, film: str) -> None:
        """Fail."""
        raise StoreError("store: it cannot be written")


def test_a_film_that_cannot_be_deleted_gives_its_place_to_the_next(tmp_path: Path) -> None:
    async def steps(films: Films) -> None:
        film = await films.open()
        with pytest.raises(StoreError):
            await films.delete(film.id)
        assert films.line.playing == 0

    run(steps, store=_FullStore(tmp_path), capacity=1)


def test_a_film_is_deleted_although_it_is_just_being_closed(tmp_path: Path) -> None:
    async def steps(films: Films) -> None:
        film = await films.open()
        closing = asyncio.create_task(films.close_film(film, "nobody watched", "idle"))
        await asyncio.sleep(0)
        await films.delete(film.id)
        await closing
        assert await films.stored() == ()

    run(steps, store=FolderStore(tmp_path))


def test_a_film_is_deleted_although_it_is_just_being_opened_again(tmp_path: Path) -> None:
    async def steps(films: Films) -> None:
        film = await films.open()
        await films.close_film(film, "nobody watched", "idle")
        reaching = asyncio.create_task(films.reach(film.id))
        await asyncio.sleep(0)
        await films.delete(film.id)
        await reaching
        assert films.all() == ()
        assert await films.stored() == ()

    run(steps, store=FolderStore(tmp_path))


def test_a_film_that_cannot_be_closed_does_not_keep_the_others_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def steps(films: Films) -> None:
        broken, other = await films.open(), await films.open()
        session, model, close = other.session, await films.model.get(), LiveFilm.close

        async def close_others(film: LiveFilm, *how: Any) -> None:
            await close(film, *how)
            if film is broken:
                raise RuntimeError("broken")

        monkeypatch.setattr(LiveFilm, "close", close_others)
        await films.close()
        assert session.closed
        assert model.closed

    run(steps)


def test_who_comes_to_a_film_that_was_closed_is_sent_away() -> None:
    async def steps(films: Films) -> None:
        film = await films.open()
        await films.close_film(film, "it was closed")
        viewer = join(films, film)
        while await viewer.next() is not None:
            pass

    run(steps)
