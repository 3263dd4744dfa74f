"""A server's films that pause or sleep: what is kept of them, and what they answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.film_pause import FilmPause
from shotstream_rt.serve.films import Films
from shotstream_rt.serve.from_server import Over
from shotstream_rt.serve.from_viewer import Branch, Cancel, Cut, Pause
from shotstream_rt.serve.live_film import LiveFilm
from shotstream_rt.serve.player import Player
from shotstream_rt.serve.problems import StoreError
from shotstream_rt.serve.store import FolderStore
from shotstream_rt.session import Session

from .film_steps import CAT, join, outcomes_of, run, state_of

pytestmark = pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)


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
