"""``bench --interactive``: from an ask to the frame that shows it, in a record."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shotstream_rt.bench import interactive_run
from shotstream_rt.bench.__main__ import main
from shotstream_rt.bench.interactive_run import READERS, ask_kinds, measure_directed
from shotstream_rt.bench.measurement import Measurement, unit_of
from shotstream_rt.bench.options import BenchOptions
from shotstream_rt.bench.paced_reader import PacedReader, Shown
from shotstream_rt.bench.workloads import Workload, find_workload
from shotstream_rt.errors import ConfigError, ShotStreamError
from shotstream_rt.loading.load_model import Model
from shotstream_rt.types import Frame, Place, Receipt

OPTIONS = BenchOptions(device="cpu", threads=1)


@pytest.fixture
def live() -> Workload:
    return Workload(
        id="live",
        version=1,
        kind="interactive",
        title="two asks of each kind",
        recipe={"model": "tiny", "story": "beach_friends", "seed": 7, "asks": 2, "queue_chunks": 1},
        tolerance={},
    )


def test_every_kind_is_answered_for_both_readers(tiny_bundle: Model, live: Workload) -> None:
    early: list[Measurement] = []
    measured = measure_directed(tiny_bundle, live, OPTIONS, early.append)
    assert measured.correctness is not None and measured.correctness.passed
    assert [m.correctness for m in early] == [None]
    metrics = {metric.name: metric for metric in measured.metrics()}
    assert {"cut", "prompt", "retake"} <= set(ask_kinds())
    for kind, reader in itertools.product(ask_kinds(), READERS):
        for figure, unit in (("made_ms", "ms"), ("made_chunks", "chunks"), ("shown_ms", "ms"),
                             ("shown_chunks", "chunks"), ("stale_frames", "frames")):  # fmt: skip
            metric = metrics[f"{kind}_{figure}.{reader}"]
            assert (metric.n, metric.unit) == (2, unit)
            assert not metric.higher_is_better
        shown, made = metrics[f"{kind}_shown_ms.{reader}"], metrics[f"{kind}_made_ms.{reader}"]
        assert shown.min >= made.min
        assert metrics[f"{kind}_stale_frames.{reader}"].min >= 0
    assert metrics["e2e_fps"].p50 > 0
    assert measured.notes["queue_chunks"] == 1
    assert measured.notes["kinds"] == list(ask_kinds())
    rates = measured.notes["reader_fps"]
    assert rates["slow"] == pytest.approx(rates["full"] / 4, abs=0.01)


def frame(index: int, shot: int = 0, take: int = 0) -> Shown:
    return Shown(at_ns=0, made_ns=0, shot=shot, take=take, index=index, caption="")


@pytest.mark.parametrize(
    "kind,place,changed",
    [
        ("cut", Place(1, 0, 0, 24), 2),
        ("retake", Place(0, 1, 0, 24), 3),
        ("prompt", Place(0, 0, 2, 21), 1),
        ("undo", Place(0, 0, 1, 9), 4),
    ],
)
def test_the_first_frame_that_shows_an_ask_is_found(kind: str, place: Place, changed: int) -> None:
    log = [frame(20), frame(21), frame(24, shot=1), frame(24, take=1), frame(9)]
    receipt = Receipt("cut")
    shows = interactive_run._shows(kind, receipt)
    assert not any(shows(shown) for shown in log)  # nothing is applied yet
    receipt.decide("applied", place)
    assert [shows(shown) for shown in log].index(True) == changed


class Film:
    """A session as far as a reader and a director know it: frames that are always ready."""

    def __init__(self, caption: str = "text") -> None:
        self.caption = caption
        self.receipts: list[Receipt] = []
        self.index = 0

    def stream(self, **_: object) -> Iterator[Frame]:
        while True:
            yield Frame(None, self.index, 0, 0, 0.0, caption=self.caption)  # type: ignore[arg-type]
            self.index += 1

    def cut(self, *_: object, **__: object) -> Receipt:
        receipt = Receipt("cut")
        receipt.decide("applied", Place(0, 0, 0, self.index + 12))
        self.receipts.append(receipt)
        return receipt

    prompt = retake = undo = cut


def director(texts: tuple[str, ...] = ("text",)) -> interactive_run._Director:
    return interactive_run._Director(texts, chunk_ms=1.0, rate=random.Random(0), patience=1)


def test_stale_frames_are_those_between_the_ask_and_the_change() -> None:
    film = Film()
    with PacedReader(film, 500.0) as shown:  # type: ignore[arg-type]
        answers = director().direct(film, shown, 3)  # type: ignore[arg-type]
    assert len(answers) == 3 * len(ask_kinds())
    assert {answer.kind for answer in answers} == set(ask_kinds())
    for answer in answers:
        assert answer.stale_frames >= 11  # twelve from the frame that is shown, or the next
        assert answer.shown_ms > 0


def test_a_frame_of_another_caption_is_an_error() -> None:
    film = Film(caption="something else")
    with PacedReader(film, 500.0) as shown, pytest.raises(ShotStreamError, match="wanted 'text'"):  # type: ignore[arg-type]
        director().direct(film, shown, 1)  # type: ignore[arg-type]


def test_asks_that_are_always_too_late_are_an_error() -> None:
    class Ended(Film):
        def prompt(self, *_: object, **__: object) -> Receipt:
            raise ConfigError("no shot is running")

    film, directing = Ended(), director()
    refused = pytest.raises(ShotStreamError, match="prompt: 10 times in a row")
    with PacedReader(film, 500.0) as shown, refused:  # type: ignore[arg-type]
        directing.direct(film, shown, 1)  # type: ignore[arg-type]
    assert directing.missed == 10


def test_what_stops_the_film_is_raised_where_a_frame_is_waited_for() -> None:
    class Broken(Film):
        def stream(self, **_: object) -> Iterator[Frame]:
            yield from itertools.islice(super().stream(), 3)
            raise ShotStreamError("the accelerator is on fire")

    with PacedReader(Broken(), 500.0) as shown:  # type: ignore[arg-type]
        assert shown.wait_for(lambda found: found.index == 2, first=0) is not None
        with pytest.raises(ShotStreamError, match="on fire"):
            shown.wait_for(lambda found: found.index == 3, first=0)


def test_units_have_their_direction() -> None:
    assert unit_of("cut_shown_chunks.slow") == "chunks"
    assert unit_of("cut_stale_frames.full") == "frames"


def test_the_declared_workload_asks_thirty_times() -> None:
    recipe = find_workload("nano-live").recipe
    assert recipe["asks"] >= 30
    assert recipe["queue_chunks"] == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--interactive", "--shots", "2"],
        ["--interactive", "--baseline"],
        ["--interactive", "--asks", "0"],
        ["--interactive", "--workload", "nano-story"],
        ["--asks", "3"],
        ["profile", "--workload", "nano-live"],
    ],
    ids=" ".join,
)
def test_what_is_not_measured_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert "error:" in capsys.readouterr().err


def test_the_command_writes_a_record_that_compares(
    tiny_bundle: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Model, "open", lambda *_, **__: tiny_bundle)
    path = tmp_path / "live.json"
    words = ["--interactive", "--asks", "1", "--device", "cpu", "--threads", "1", "--json"]
    assert main([*words, "--out", str(path)]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["status"] == "ok"
    assert record["workload"]["id"] == "nano-live-asks-1"
    assert record["method"]["consumer"] == "paced"
    assert record["method"]["kinds"] == list(ask_kinds())
    assert not list(tmp_path.glob("*.unchecked.json"))
    assert main(["compare", str(path), str(path)]) == 0
    assert "cut_shown_chunks.slow" in capsys.readouterr().out
