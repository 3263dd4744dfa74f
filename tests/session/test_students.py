"""A session through each student of the family: cut, prompt, extend, retake, snapshot, restore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shotstream_rt import ConfigError, Session
from shotstream_rt.plan.pass_plan import PassPlan
from shotstream_rt.plan.students import STUDENTS

from ..patience import PATIENCE_S, wait_for
from .films import film

Films = Callable[..., Session]
EVERY = pytest.mark.parametrize("name", STUDENTS)


@EVERY
def test_a_shot_goes_on_for_three_times_its_length(name: str, open_student: Films) -> None:
    session = open_student(name, chunks=7, at_end="extend")
    session.cut("a")
    made = film(session, 22)
    assert [entry[2] for entry in made] == list(range(22))
    assert len({entry[3] for entry in made}) > 15, "a picture that stands still"


@EVERY
def test_a_restored_session_goes_on_bit_for_bit(name: str, open_student: Films) -> None:
    whole, session = (open_student(name) for _ in range(2))
    whole.cut("a")
    session.cut("a")
    expected = film(whole)
    assert film(session, 3) == expected[:3]
    data = session.snapshot()
    restored = open_student(name, seed=99)
    restored.cut("what is dropped by restore")
    film(restored, 2)
    restored.restore(data)
    assert film(restored) == expected[3:]


@EVERY
def test_a_cut_begins_what_the_table_says(name: str, open_student: Films) -> None:
    session, other = open_student(name), open_student(name)
    for opened, first in ((session, "a"), (other, "another beginning")):
        opened.cut(first)
        opened.cut("b")
    second, after_another = film(session)[6:], film(other)[6:]
    assert [entry[1:3] for entry in second] == [(1, chunk) for chunk in range(6)]
    sees_the_first = name in ("shotstream", "infinity-rope")
    assert (second != after_another) == sees_the_first


@EVERY
def test_a_prompt_steers_or_is_refused(name: str, open_student: Films) -> None:
    session, calm = open_student(name), open_student(name)
    session.cut("a")
    calm.cut("a")
    made = film(session, 1)
    if name in ("rolling-forcing", "causal-forcing-long"):
        with pytest.raises(ConfigError, match="cut instead"):
            session.prompt("b is longer")
        assert made + film(session) == film(calm)
        return
    receipt = session.prompt("b is longer")
    made += film(session)
    assert receipt.wait(PATIENCE_S) and receipt.place is not None
    changed = [one[2] for one, other in zip(made, film(calm), strict=True) if one != other]
    assert changed == list(range(receipt.place.chunk, 6))


def test_a_prompt_recached_is_part_of_a_snapshot(open_student: Films) -> None:
    session = open_student("longlive")
    session.cut("a")
    film(session, 1)
    session.prompt("b is longer")
    film(session, 3)
    data, expected = session.snapshot(), film(session)
    restored = open_student("longlive")
    restored.restore(data)
    assert film(restored) == expected


def test_a_retake_begins_where_the_shot_began_although_caches_are_kept(
    open_student: Films,
) -> None:
    takes = []
    for chunks in (1, 4):
        session = open_student("infinity-rope")
        session.cut("a")
        session.cut("b")
        film(session, 6 + chunks)
        session.retake()
        made = [entry for entry in session.chunks() if entry.take == 1]
        takes.append([(chunk.chunk, chunk.pixels.tobytes()) for chunk in made])
    assert len(takes[0]) == 6
    assert takes[0] == takes[1]


@pytest.mark.parametrize("read", [3, 7, 12, 14])
def test_a_film_whose_caches_were_kept_at_cuts_is_restored_bit_for_bit(
    read: int, open_student: Films
) -> None:
    whole, session = (open_student("infinity-rope") for _ in range(2))
    for text in ("a", "b", "c"):
        whole.cut(text)
        session.cut(text)
    expected = film(whole)
    assert film(session, read) == expected[:read]
    data = session.snapshot()
    restored = open_student("infinity-rope", seed=99)
    restored.cut("what is dropped by restore")
    film(restored, 2)
    restored.restore(data)
    assert film(restored, 2) == expected[read : read + 2]
    again = open_student("infinity-rope")
    again.restore(restored.snapshot())
    assert film(again) == film(restored) == expected[read + 2 :]


def test_going_back_over_a_cut_that_kept_the_caches(open_student: Films) -> None:
    session, straight = (open_student("infinity-rope") for _ in range(2))
    for text in ("a", "b", "c"):
        session.cut(text)
    film(session, 14)
    session.undo(shot=1)
    session.clear()
    session.cut("another one")
    for text in ("a", "b", "another one"):
        straight.cut(text)
    assert film(session) == film(straight)[6:]


def test_a_snapshot_from_before_a_cut_can_be_restored_after_it(open_student: Films) -> None:
    session = open_student("infinity-rope")
    session.cut("a")
    film(session, 2)
    data = session.snapshot()
    session.cut("b")
    expected = film(session)
    assert {entry[1] for entry in expected} == {0, 1}
    session.restore(data)
    session.cut("b")
    assert film(session) == expected


@pytest.mark.parametrize("read", [2, 4, 11, 15])
@pytest.mark.parametrize("within", [0, 5])
def test_a_prompt_that_drops_what_is_made_computes_held_keys_anew(
    read: int, within: int, open_student: Films
) -> None:
    session = open_student("longlive", chunks=20, queue_chunks=2)
    session.cut("a")
    chunks = session.chunks()
    made = [next(chunks) for _ in range(read)]
    stream = session.stream()
    shown = [next(stream) for _ in range(within)]
    wait_for(lambda: session.state.waits_for_reader)
    passes = encoded_passes(session)
    receipt = session.prompt("b is longer", flush=True)
    rest = list(session.stream())
    assert receipt.place is not None
    assert receipt.place.index == rest[0].index == sum(len(c.pixels) for c in made) + within
    assert len(passes) == 1, "the shot was made again"
    frames = [f.tobytes() for c in made for f in c.pixels]
    frames += [f.pixels.tobytes() for f in (*shown, *rest)]
    again = open_student("longlive", chunks=20)
    assert [f.pixels.tobytes() for f in again.replay(session.directions())] == frames


def test_a_prompt_goes_back_over_one_that_computed_the_sink_anew(open_student: Films) -> None:
    session = open_student("longlive", chunks=12, queue_chunks=3)
    session.cut("a")
    chunks = session.chunks()
    made = [next(chunks)]
    wait_for(lambda: session.state.waits_for_reader)
    receipt = session.prompt("b is longer")
    wait_for(lambda: session._film.captions.ready("b is longer"))
    made.append(next(chunks))  # makes room, so the next one is made with it
    wait_for(lambda: receipt.state == "applied")
    passes = encoded_passes(session)
    session.prompt("c", flush=True)
    frames = [f.tobytes() for c in [*made, *chunks] for f in c.pixels]
    assert passes[-1] == 6, "keys of the two chunks that were read"
    again = open_student("longlive", chunks=12)
    assert [f.pixels.tobytes() for f in again.replay(session.directions())] == frames


def test_a_prompt_taken_back_before_its_keys_were_computed(open_student: Films) -> None:
    session, calm = (open_student("longlive", chunks=12, queue_chunks=2) for _ in range(2))
    session.cut("a")
    calm.cut("a")
    made = film(session, 6)
    wait_for(lambda: session.state.waits_for_reader)
    session.pause()
    receipt = session.prompt("b is longer", flush=True)
    wait_for(lambda: session._film.timeline.wound_back is False)
    assert session.cancel(receipt)
    session.resume()
    assert made + film(session) == film(calm)


def encoded_passes(session: Session) -> list[int]:
    """Return a list that gets the frames of every pass over known frames from now on."""
    state, passes = session._film.workers.pipeline.film, []
    encode = state.encode_context

    def noted(plan: PassPlan, *given: Any) -> None:
        passes.append(plan.frames)
        encode(plan, *given)

    state.encode_context = noted  # type: ignore[method-assign]
    return passes


@EVERY
def test_a_film_far_beyond_its_length_is_restored_bit_for_bit(
    name: str, open_student: Films
) -> None:
    session = open_student(name, chunks=3, at_end="extend")
    session.cut("a")
    made = film(session, 10)
    if STUDENTS[name].rollout.prompt != "refused":
        receipt = session.prompt("b is longer")
        wait_for(lambda: session._film.captions.ready("b is longer"))
        made += film(session, 2)
        wait_for(lambda: receipt.state == "applied")
    data, expected = session.snapshot(), film(session, 4)
    restored = open_student(name, chunks=3, at_end="extend", seed=99)
    restored.restore(data)
    assert film(restored, 4) == expected
    assert expected[0][0] == made[-1][0] + (expected[1][0] - expected[0][0])
