"""A server's films, where something fails or several people come at once."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.admissions import Admissions
from shotstream_rt.serve.film_pause import FilmPause
from shotstream_rt.serve.film_settings import FilmSettings
from shotstream_rt.serve.films import Films
from shotstream_rt.serve.from_server import Over
from shotstream_rt.serve.from_viewer import Branch, Cancel, Cut, Pause, Resume, Unpin
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.live_film import LiveFilm
from shotstream_rt.serve.player import Player
from shotstream_rt.serve.problems import EndingError, StoreError
from shotstream_rt.serve.saved_film import SavedState, _unpacked
from shotstream_rt.serve.store import FolderStore, Store
from shotstream_rt.serve.viewer import Viewer
from shotstream_rt.session import Session

from ..patience import PATIENCE_S

pytestmark = pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)

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
        await film.do(Cut(type="cut", id="b", text=CAT))
        film.leave(viewer)
        assert await film.sleep()
        (told,) = await outcomes_of(films, film)
        assert Over.model_validate_json(told) == Over(id="b", state="untold")
        # It waits in the snapshot: it has not begun, and can no longer be taken back.
        await films.admit(film)
        (note,) = (await film.do(Cancel(type="cancel", id="c", ask="b"))).notes
        assert "the film slept" in note

    run(steps)


def test_a_film_does_not_sleep_while_an_ask_is_done() -> None:
    async def steps(films: Films) -> None:
        film, goes_on = await films.open(), asyncio.Event()

        async def branch() -> str:
            await goes_on.wait()
            return "other"

        asking = asyncio.create_task(film.do(Branch(type="branch", id="a"), branch))
        await asyncio.sleep(0)  # who asked has gone, and nobody else watches
        await asyncio.sleep(0)
        assert not await film.sleep()
        goes_on.set()
        await asking
        assert await film.sleep()

    run(steps)


class _BrokenStore(FolderStore):
    """A store that takes nothing for a while."""

    broken = False

    def put(self, film: str, name: str, data: bytes) -> None:
        """Set a value, or fail."""
        if self.broken:
            raise StoreError("store: it cannot be written")
        super().put(film, name, data)


def test_a_film_that_sleeps_is_saved_when_the_store_is_well_again(tmp_path: Path) -> None:
    store = _BrokenStore(tmp_path)

    async def steps(films: Films) -> None:
        film = await films.open()
        store.broken = True
        await film.do(Pause(type="pause", id="a"))
        assert await film.sleep()
        assert not state_of(store, film).paused
        store.broken = False
        while not state_of(store, film).paused:
            await asyncio.sleep(0.01)
        assert [answer.id for answer in state_of(store, film).answers] == ["a"]

    run(steps, store=store)


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


def test_a_film_that_finishes_its_chunk_begins_no_other_one_for_who_comes() -> None:
    async def steps(films: Films) -> None:
        film = await films.open()
        join(films, film)
        await film.do(Cut(type="cut", id="a", text=CAT))
        while not film.frames:
            await asyncio.sleep(0.01)
        finishing = asyncio.create_task(film.finish_chunk())
        await asyncio.sleep(0)
        join(films, film)
        assert film.session.state.paused
        await finishing
        assert film.frames % 12 == 9, "it ends with a chunk"

    run(steps)


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
