"""How much a device makes: what is measured, and a measurement that is given up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.progress import Cancellation, LoadingCancelled
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve import throughput
from shotstream_rt.serve.film_settings import FilmSettings
from shotstream_rt.serve.films import Films
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.problems import EndingError
from shotstream_rt.serve.throughput import Throughput, measure
from shotstream_rt.session import Session

from ..patience import PATIENCE_S

pytestmark = pytest.mark.skipif(
    not (NANO_FOLDER / "student.json").is_file(), reason="this checkout has no nano weights"
)


def test_three_quarters_of_the_newest_rate_are_used() -> None:
    told = Throughput()
    assert told.frames_per_s is None
    assert told.films(16) == 1
    told.note(30, 1.0)
    told.note(50, 1.0)
    assert told.frames_per_s == 40
    assert [told.films(rate) for rate in (8, 16, 40)] == [3, 1, 1]
    for _ in range(64):
        told.note(80, 1.0)
    assert [told.films(rate) for rate in (8, 16, 40)] == [7, 3, 1]


def test_chunks_of_several_films_are_measured() -> None:
    told = Throughput()
    with Model.open("nano", threads=1) as model:
        measure(model, told, 2, 1, Cancellation())
    assert told.frames_per_s is not None
    assert told.frames_per_s > 0


def test_a_device_that_is_too_slow_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(throughput, "_MEASURED_CHUNKS", 10**9)
    monkeypatch.setattr(throughput, "_MEASURED_S", 0.0)
    monkeypatch.setattr(throughput, "_LOOK_S", 0.001)
    told = Throughput()
    with Model.open("nano", threads=1) as model:
        measure(model, told, 1, 1, Cancellation())
    assert told.frames_per_s is None
    assert "was not measured: it does not make" in caplog.text


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Lets measurements have no end; set when one has begun."""
    monkeypatch.setattr(throughput, "_MEASURED_CHUNKS", 10**9)
    monkeypatch.setattr(throughput, "_MEASURED_S", 10**9)
    begun, make_some = threading.Event(), throughput._make_some

    def noting(session: Session, loading: Cancellation) -> tuple[float, float, int]:
        begun.set()
        return make_some(session, loading)

    monkeypatch.setattr(throughput, "_make_some", noting)
    return begun


def test_a_measurement_that_is_given_up_ends_and_notes_nothing(endless: threading.Event) -> None:
    told, loading = Throughput(), Cancellation()
    ended: list[BaseException] = []

    def run(model: Model) -> None:
        try:
            measure(model, told, 2, 1, loading)
        except LoadingCancelled as error:
            ended.append(error)

    with Model.open("nano", threads=1) as model:
        thread = threading.Thread(target=run, args=(model,))
        thread.start()
        assert endless.wait(PATIENCE_S)
        loading.cancel()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "it was not given up"
    assert len(ended) == 1
    assert told.frames_per_s is None


def test_films_that_are_closed_give_it_up(endless: threading.Event) -> None:
    async def steps() -> None:
        films = Films(FilmSettings(threads=1), Limits())
        loading = films.model.load()
        assert await asyncio.to_thread(endless.wait, PATIENCE_S)
        await asyncio.wait_for(films.close(), PATIENCE_S)
        assert isinstance(loading.exception(), LoadingCancelled)
        with pytest.raises(EndingError):
            await films.model.get()

    asyncio.run(steps())
