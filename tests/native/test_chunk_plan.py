"""Plans against a list model that appends, evicts from the front and shifts, as the original."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shotstream_rt._native import Planner
from shotstream_rt.errors import ConfigError, ShotStreamError


class ListCache:
    """The local cache as a growing list of frame numbers; eviction deletes after the sink."""

    def __init__(self, capacity: int, sink: int) -> None:
        self.frames: list[int] = []
        self.capacity, self.sink = capacity, sink

    def write(self, frames: list[int]) -> None:
        self.frames += frames
        while len(self.frames) > self.capacity:
            del self.frames[self.sink]


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, int]:
    chunk = draw(st.integers(1, 7))
    chunks = draw(st.integers(1, 6))
    sink = draw(st.integers(0, 5))
    window = draw(st.integers(0, 20))
    local = window or chunk * chunks
    if local - sink < chunk:
        window = sink + chunk + draw(st.integers(0, 5))
    return {
        "context_frames": draw(st.integers(0, 9)),
        "chunk_frames": chunk,
        "shot_frames": chunk * chunks,
        "sink_frames": sink,
        "window_frames": window,
    }


@given(geometry=geometries(), extra=st.integers(0, 9), on_read=st.booleans())
def test_every_chunk_equals_the_list_model(
    geometry: dict[str, int], extra: int, on_read: bool
) -> None:
    planner = Planner(**geometry, rotate_on_read=on_read)
    context, length = geometry["context_frames"], geometry["chunk_frames"]
    sink = geometry["sink_frames"]
    capacity = geometry["window_frames"] or geometry["shot_frames"]
    assert planner.local_frames == capacity
    assert planner.arena_frames == context + capacity
    cache = ListCache(capacity, sink)
    arena: dict[int, int] = {}
    for chunk in range(planner.chunks + extra):
        frames = list(range(chunk * length, (chunk + 1) * length))
        cache.write(frames)
        plan = planner.chunk(0, chunk, 1)
        arena.update(zip(plan.write_slots, frames, strict=True))

        assert plan.first_frame == frames[0]
        assert len(set(plan.write_slots)) == length
        assert plan.valid_frames == context + len(cache.frames)
        # The ring holds what the list holds, slot by slot, in a contiguous valid prefix.
        assert sorted(plan.slot_frames) == cache.frames
        held = [arena[slot] for slot in range(context, plan.valid_frames)]
        assert held == plan.slot_frames
        assert plan.key_positions[:context] == list(range(context))
        local_positions = dict(zip(held, plan.key_positions[context:], strict=True))
        if on_read:
            first_key = context if sink else 6
            expected = {frame: first_key + rank for rank, frame in enumerate(cache.frames)}
            first_query = min(context + frames[0], context + 18)
        else:
            expected = {frame: context + frame for frame in cache.frames}
            first_query = context + frames[0]
        assert local_positions == expected
        assert plan.positions == list(range(first_query, first_query + length))


def test_the_two_rotations_agree_within_a_trained_shot() -> None:
    write, read = Planner(6, 3, 21), Planner(6, 3, 21, rotate_on_read=True)
    for chunk in range(7):
        a, b = write.chunk(0, chunk, 1), read.chunk(0, chunk, 1)
        assert (a.positions, a.key_positions, a.write_slots) == (
            b.positions,
            b.key_positions,
            b.write_slots,
        )


def test_a_plan_does_not_depend_on_the_plans_before_it() -> None:
    planner = Planner(6, 3, 21, 3, 9)
    fresh = Planner(6, 3, 21, 3, 9).chunk(4, 11, 2)
    for chunk in range(3):
        planner.chunk(0, chunk, 1)
    plan = planner.chunk(4, 11, 2)
    for name in ("write_slots", "positions", "key_positions", "slot_frames", "valid_frames"):
        assert getattr(plan, name) == getattr(fresh, name)


def test_plans_carry_their_flags() -> None:
    planner = Planner(3, 3, 21)
    assert planner.context([0, 4, 5]).flags == [0, 4, 5]
    assert planner.chunk(5, 0, 6).flag == 6


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((-1, 3, 21), "context_frames"),
        ((6, 0, 21), "chunk_frames"),
        ((6, 3, 20), "shot_frames"),
        ((6, 3, 21, 7, 9), "chunk_frames"),
        ((6, 3, 21, 9, 9), "sink_frames"),
        ((6, 3, 21, 0, -1), "window_frames"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_bad_geometry_names_the_field(arguments: tuple[int, ...], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}: got .*, wanted "):
        Planner(*arguments)


def test_a_shot_ends_where_rotary_positions_end() -> None:
    planner = Planner(6, 3, 21)
    assert planner.chunk(0, 338, 1).positions[-1] < 1024
    with pytest.raises(ConfigError, match="on_read"):
        planner.chunk(0, 339, 1)
    assert planner.longest_shot_chunks == 339
    unlimited = Planner(6, 3, 21, rotate_on_read=True)
    assert unlimited.longest_shot_chunks is None
    assert unlimited.chunk(0, 339, 1).positions == [24, 25, 26]


@given(geometry=geometries(), first=st.integers(0, 40), origin=st.integers(0, 9))
def test_a_chunk_is_one_case_of_some_frames(
    geometry: dict[str, int], first: int, origin: int
) -> None:
    planner, length = Planner(**geometry), geometry["chunk_frames"]
    chunk = planner.chunk(0, first, 3)
    frames = planner.frames(first * length, length, 3)
    assert (frames.positions, frames.write_slots) == (chunk.positions, chunk.write_slots)
    assert (frames.key_positions, frames.slot_frames) == (chunk.key_positions, chunk.slot_frames)
    # With another origin everything moves by as much, slots stay.
    moved = planner.frames(first * length + origin, length, 3, origin)
    context = geometry["context_frames"]
    assert (moved.write_slots, moved.valid_frames) == (chunk.write_slots, chunk.valid_frames)
    assert moved.slot_frames == [frame + origin for frame in chunk.slot_frames]
    assert moved.positions == [place + origin for place in chunk.positions]
    assert moved.key_positions[context:] == [p + origin for p in chunk.key_positions[context:]]


@given(geometry=geometries(), first=st.integers(0, 40), own=st.none() | st.integers(0, 99))
def test_queries_numbered_by_slot_stand_where_their_keys_do(
    geometry: dict[str, int], first: int, own: int | None
) -> None:
    planner = Planner(**geometry, rotate_on_read=True, number_by_slot=True)
    length, context = geometry["chunk_frames"], geometry["context_frames"]
    plan = planner.frames(first * length, length, 1, 0, own)
    ranks = {frame: rank for rank, frame in enumerate(sorted(plan.slot_frames))}
    wanted = [context + ranks[frame] for frame in plan.slot_frames]
    if own is not None:
        for index, slot in enumerate(plan.write_slots):
            wanted[slot - context] = own + index
    assert plan.key_positions[context:] == wanted
    assert plan.positions == [plan.key_positions[slot] for slot in plan.write_slots]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((-1, 1), "first"),
        ((0, 0), "count"),
        ((0, 10), "count"),
        ((3, 7), "count"),
        ((2, 1, 0, 3), "first"),
        ((0, 1, 0, -1), "origin"),
        ((1015, 4), "frame"),
        ((0, 1, -1), "flag"),
        ((0, 1, 0, 0, 45), "own_position"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_impossible_frames_name_the_field(arguments: tuple[int, ...], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}: got .*, wanted "):
        Planner(6, 3, 21, 3, 9).frames(*arguments)


def test_numbering_by_slot_needs_keys_rotated_on_read() -> None:
    with pytest.raises(ConfigError, match="number_by_slot"):
        Planner(6, 3, 21, number_by_slot=True)


def test_errors_of_the_core_are_the_packages_own() -> None:
    with pytest.raises(ValueError, match="flags") as caught:
        Planner(6, 3, 21).context([0])
    assert isinstance(caught.value, ShotStreamError)
