"""Asks that go back into a shot when the next one has begun: its keys are put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from shotstream_rt import Model, Session
from shotstream_rt.types import Frame

from ..patience import PATIENCE_S, wait_for

Ask = Callable[[Session], object]

CAT, ROBOT = "Wide shot: a red cat walks right on a beach.", "Close-up: a blue robot jumps."
SHOT_FRAMES = 81

ASKS: dict[str, Ask] = {
    "undo": lambda film: film.undo(chunks=1),
    "undo of two chunks": lambda film: film.undo(chunks=2),
    "undo within a chunk": lambda film: film.undo(frame=film.standing().index - 9),
    "prompt": lambda film: film.prompt("Wide shot: a blue cat walks right.", flush=True),
    "prompt with what it computes anew": lambda film: film.prompt(ROBOT, flush=True, reread=2),
    "prompt after an undo": lambda film: (film.undo(chunks=1), film.prompt(ROBOT, flush=True)),
    "undo twice": lambda film: (film.undo(chunks=1), film.undo(chunks=1)),
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.open("nano", device="cpu", size="32x48", dtype="float32") as opened:
        yield opened


def replayed(model: Model, directions: dict[str, object], frames: int) -> list[Frame]:
    with model.session(seed=1, at_end="loop", threads=1) as other:
        other.replay(directions)
        return list(islice(other.stream(timeout_s=PATIENCE_S), frames))


def same(film: list[Frame], again: list[Frame]) -> None:
    for mine, theirs in zip(film, again, strict=True):
        assert (mine.index, mine.shot, mine.caption) == (theirs.index, theirs.shot, theirs.caption)
        assert (mine.pixels == theirs.pixels).all(), f"frame {mine.index}"


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("ask", ASKS)
def test_an_ask_makes_one_chunk_and_the_film_that_its_directions_make(
    model: Model, ask: str, before: int
) -> None:
    with model.session(seed=1, at_end="loop", queue_chunks=3, threads=1) as session:
        session.cut(CAT)
        stream = session.stream(follow=True, timeout_s=PATIENCE_S)
        shown = list(islice(stream, before * SHOT_FRAMES + 72))
        wait_for(lambda: session.state.waits_for_reader)
        began: list[int] = []
        session.on_event(lambda e: began.append(e.place.shot) if e.kind == "shot_began" else None)
        made = session.stats["chunk_ms"]["n"]
        ASKS[ask](session)
        first = next(stream)
        assert first.shot == before
        assert session.stats["chunk_ms"]["n"] - made <= 3, "the shot was made again"
        assert before not in began
        film = [*shown[: first.index], first, *islice(stream, 120)]
        assert began[:1] == [before + 1]
        directions = session.directions()
    same(film, replayed(model, directions, len(film)))


@pytest.mark.parametrize("queue_chunks", [2, 3])
def test_a_queued_shot_is_made_again_behind_it(model: Model, queue_chunks: int) -> None:
    with model.session(seed=1, queue_chunks=queue_chunks, threads=1) as session:
        session.cut(CAT)
        session.cut(ROBOT)
        stream = session.stream(timeout_s=PATIENCE_S)
        shown = list(islice(stream, 70))
        wait_for(lambda: session.state.waits_for_reader)
        made = session.stats["chunk_ms"]["n"]
        session.prompt("Wide shot: a blue cat walks right.", flush=True)
        film = [*shown, next(stream)]
        assert session.stats["chunk_ms"]["n"] - made <= 3
        film += stream
        directions = session.directions()
    assert [frame.index for frame in film] == list(range(2 * SHOT_FRAMES))
    same(film, replayed(model, directions, len(film)))


def test_a_shot_that_was_given_up_at_once_does_not_stand_between(model: Model) -> None:
    with model.session(seed=1, at_end="loop", queue_chunks=2, threads=1) as session:
        session.cut(CAT)
        stream = session.stream(follow=True, timeout_s=PATIENCE_S)
        shown = list(islice(stream, 72))
        wait_for(lambda: session.state.waits_for_reader)
        session.cut(ROBOT, now=True)
        session.cut(CAT, now=True)
        made = session.stats["chunk_ms"]["n"]
        session.undo(frame=57)
        film = [*shown[:57], *islice(stream, 100)]
        assert session.stats["chunk_ms"]["n"] - made <= 13
        directions = session.directions()
    same(film, replayed(model, directions, len(film)))


def test_when_the_next_shot_has_gone_far_the_shot_is_made_again(model: Model) -> None:
    with model.session(seed=1, at_end="loop", queue_chunks=1, threads=1) as session:
        session.cut(CAT)
        stream = session.stream(follow=True, timeout_s=PATIENCE_S)
        shown = list(islice(stream, 2 * SHOT_FRAMES - 5))
        session.undo(frame=65)
        film = [*shown[:65], *islice(stream, 100)]
        directions = session.directions()
    same(film, replayed(model, directions, len(film)))
