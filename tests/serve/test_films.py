"""A server's films, where something fails or several people come at once."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.admissions import Admissions
from shotstream_rt.serve.films import Films
from shotstream_rt.serve.from_server import Over
from shotstream_rt.serve.from_viewer import Cancel, Cut, Pause, Resume, Unpin
from shotstream_rt.serve.live_film import LiveFilm
from shotstream_rt.serve.problems import EndingError, StoreError
from shotstream_rt.serve.store import FolderStore
from shotstream_rt.session import Session

from .film_steps import CAT, join, run, state_of

pytestmark = pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)

# Asking.


def test_nothing_is_logged_as_forgotten_of_a_refused_ask_whose_asker_has_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "shotstream_rt.serve")

    async def steps(films: Films) -> None:
        film = await films.open()
        asking = asyncio.create_task(film.do(Unpin(type="unpin", id="a", index=5)))
        await asyncio.sleep(0)
        asking.cancel()
        while "nobody is told" not in caplog.text:
            await asyncio.sleep(0.01)
        gc.collect()
        assert "never retrieved" not in caplog.text

    run(steps)


def test_what_becomes_of_an_ask_is_saved_although_no_frame_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path)

    def fail(texts: Any) -> Any:
        time.sleep(0.2)
        raise ValueError("the tokenizer says no")

    async def steps(films: Films) -> None:
        film = await films.open()
        await film.do(Pause(type="pause", id="a"))
        await film.do(Cut(type="cut", id="b", text=CAT, now=False))
        await film.do(Cancel(type="cancel", id="c", ask="b"))
        # It is in no snapshot any more: a process that goes on from here may not call it done.
        state = state_of(store, film)
        assert (state.pending, state.outcomes) == ((), (Over(id="b", state="cancelled"),))
        # Some time later a caption turns out to be none that can be read.
        monkeypatch.setattr((await films.model.get()).text, "encode", fail)
        await film.do(Resume(type="resume", id="e"))
        await film.do(Cut(type="cut", id="d", text="a text of its own"))
        while (state := state_of(store, film)).outcomes[-1].id != "d":
            await asyncio.sleep(0.01)
        assert (state.pending, state.outcomes[-1].model_dump()["state"]) == ((), "failed")

    run(steps, store=store)


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


def test_who_wakes_a_film_when_the_server_ends_may_come_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session_of = Admissions._session

    def open_slowly(*arguments: Any) -> Session:
        time.sleep(0.2)
        return session_of(*arguments)

    async def steps(films: Films) -> None:
        film = await films.open()
        assert await film.sleep()
        monkeypatch.setattr(Admissions, "_session", open_slowly)
        waking = asyncio.create_task(films.admit(film))
        await asyncio.sleep(0.05)
        await films.drain()
        with pytest.raises(EndingError):
            await waking

    run(steps, store=FolderStore(tmp_path))


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
