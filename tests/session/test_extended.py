"""Asks in a shot that has gone on beyond its trained length, whose oldest keys are overwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from shotstream_rt import Model, Session
from shotstream_rt.types import Frame

from ..patience import PATIENCE_S, wait_for

Ask = Callable[[Session], object]

ASKS: dict[str, Ask] = {
    "cut": lambda film: film.cut("Close-up: a blue robot jumps.", now=True, flush=True),
    "prompt": lambda film: film.prompt("Wide shot: a blue cat walks right.", flush=True),
    "prompt that computes a chunk anew": lambda film: film.prompt(
        "Wide shot: a blue cat walks right.", flush=True, reread=1
    ),
    "retake": lambda film: film.retake(flush=True),
    "undo": lambda film: film.undo(chunks=1),
    "undo of three chunks": lambda film: film.undo(chunks=3),
    "prompt after an undo": lambda film: (
        film.undo(chunks=1),
        film.prompt("Wide shot: a blue cat walks right.", flush=True),
    ),
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.open("nano", device="cpu", size="32x48", dtype="float32") as opened:
        yield opened


def begin(model: Model, frames: int) -> tuple[Session, Iterator[Frame], list[Frame]]:
    session = model.session(seed=1, at_end="extend", queue_chunks=1, threads=1)
    session.cut("Wide shot: a red cat walks right on a beach.")
    stream = session.stream(follow=True, timeout_s=PATIENCE_S)
    return session, stream, list(islice(stream, frames))


@pytest.mark.parametrize("seen", [81, 90, 133])
@pytest.mark.parametrize("ask", ASKS)
def test_an_ask_makes_one_chunk_and_the_film_that_its_directions_make(
    model: Model, ask: str, seen: int
) -> None:
    session, stream, shown = begin(model, seen)
    with session:
        wait_for(lambda: session.state.waits_for_reader)
        made = session.stats["chunk_ms"]["n"]
        ASKS[ask](session)
        first = next(stream)
        # The one that is shown, and at most one more that has begun meanwhile.
        assert session.stats["chunk_ms"]["n"] - made <= 2, "the shot was made again"
        film = [*shown[: first.index], first, *islice(stream, 30)]
        directions = session.directions()
    with model.session(seed=1, at_end="extend", queue_chunks=1, threads=1) as other:
        other.replay(directions)
        again = list(islice(other.stream(timeout_s=PATIENCE_S), len(film)))
    for mine, theirs in zip(film, again, strict=True):
        assert mine.index == theirs.index and mine.shot == theirs.shot
        assert (mine.pixels == theirs.pixels).all(), f"frame {mine.index}"


def test_further_back_the_shot_is_made_again(model: Model) -> None:
    session, stream, shown = begin(model, 180)
    with session:
        session.undo(chunks=9)
        film = [next(stream) for _ in range(40)]
    assert film[0].index < 90
    for mine, theirs in zip(film, shown[film[0].index :], strict=False):
        assert mine.index == theirs.index
        assert (mine.pixels == theirs.pixels).all(), f"frame {mine.index}"
