"""The selector against a selector that forgets nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shotstream_rt.config import ContextChoice
from shotstream_rt.errors import ConfigError
from shotstream_rt.film.context import ContextSelector
from shotstream_rt.film.picks import frames_wanted, pick_context

LATENT = (2, 1, 1)


class NumberCodec:
    """A frame holds its own number; so does its latent."""

    dtype = torch.float32
    latent_channels, spatial_stride, temporal_stride = 2, 8, 4

    def __init__(self) -> None:
        self.batches: list[int] = []

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        return 8 * latent_height, 8 * latent_width

    def encode_frames(self, frames: Tensor) -> Tensor:
        self.batches.append(len(frames))
        return frames[:, :2, :1, :1].clone()


def selector(codec: NumberCodec, budget: int = 6, shot_limit: int = 81) -> ContextSelector:
    return ContextSelector(
        codec,  # type: ignore[arg-type]
        budget=budget,
        latent_shape=LATENT,
        shot_limit=shot_limit,
    )


def play(chosen: ContextSelector, shot: int, frames: int, pieces: Sequence[int] = ()) -> None:
    """Add a shot whose frame f holds the number 1000 * shot + f."""
    chosen.begin_shot(shot, f"caption {shot}")
    numbers = 1000 * shot + torch.arange(frames, dtype=torch.float32)
    for piece in numbers.split(list(pieces) or frames):
        chosen.add_frames(piece[:, None, None, None].expand(-1, 3, 8, 8))
    chosen.end_shot()


def picked(chosen: ContextSelector) -> list[int]:
    return [int(x) for x in chosen.select().latents[0, :, 0, 0, 0]]


def naive(counts: Sequence[int], budget: int) -> list[int]:
    """Sample as the spec says, over all shots with every frame at hand."""
    shots, first, out = len(counts), 0, []
    base, rest = divmod(budget, shots)
    for shot, count in enumerate(counts):
        share = base + (1 if shot >= shots - rest else 0)
        # Halves round to even numbers of the whole film, not of the shot.
        line = torch.linspace(first, first + count - 1, share) if share > 1 else [first] * share
        out += [1000 * shot + round(float(f)) - first for f in line]
        first += count
    return out


def test_first_shot_sees_zero_latents_with_target_flag_one() -> None:
    selection = selector(NumberCodec()).select()
    assert selection.latents.shape == (1, 6, *LATENT)
    assert not selection.latents.any()
    assert selection.flags == (0,) * 6
    assert selection.target_flag == 1
    assert selection.frames == ()


def test_without_a_budget_every_shot_is_a_first_shot() -> None:
    codec = NumberCodec()
    chosen = selector(codec, budget=0)
    for shot in range(2):
        play(chosen, shot, 81)
    selection = chosen.select()
    assert selection.latents.shape == (1, 0, *LATENT)
    assert (selection.flags, selection.target_flag) == ((), 1)
    assert codec.batches == []


def test_full_shots_give_the_original_table() -> None:
    chosen = selector(NumberCodec())
    tables = [
        [0, 16, 32, 48, 64, 80],
        [0, 40, 80, 1000, 1040, 1080],
        [0, 80, 1000, 1080, 2000, 2080],
        [0, 1000, 2000, 2080, 3000, 3080],
        [0, 1000, 2000, 3000, 4000, 4080],
        [0, 1000, 2000, 3000, 4000, 5000],
        [1000, 2000, 3000, 4000, 5000, 6000],
    ]
    for shot, table in enumerate(tables):
        play(chosen, shot, 81, [9, *[12] * 6])
        assert picked(chosen) == table
        assert chosen.select().flags == tuple(number // 1000 for number in table)
        assert chosen.select().target_flag == shot + 1
        assert chosen.select().captions == {n // 1000: f"caption {n // 1000}" for n in table}


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.sampled_from([1, 2, 5, 9, 21, 33, 80, 81]), min_size=1, max_size=10),
    budget=st.integers(1, 8),
)
def test_nothing_needed_is_forgotten(counts: list[int], budget: int) -> None:
    chosen = selector(NumberCodec(), budget)
    for shot, count in enumerate(counts):
        play(chosen, shot, count)
        assert picked(chosen) == naive(counts[: shot + 1], budget)


def test_frames_are_encoded_one_by_one_and_once() -> None:
    codec = NumberCodec()
    chosen = selector(codec)
    play(chosen, 0, 81)
    assert codec.batches == [1] * 6, "the frames a full shot will give are encoded as they come"
    chosen.select()
    chosen.select()
    assert codec.batches == [1] * 6


def test_memory_is_bounded_by_candidates() -> None:
    chosen = selector(NumberCodec())
    for shot in range(20):
        play(chosen, shot, 81)
    assert len(chosen.past) == 6
    assert max(len(memory.frames) + len(memory.latents) for memory in chosen.past) <= 7


def test_extended_shot_counts_with_its_last_frames() -> None:
    chosen = selector(NumberCodec())
    chosen.begin_shot(0, "long")
    for first in range(0, 240, 12):
        numbers = first + torch.arange(12, dtype=torch.float32)
        chosen.add_frames(numbers[:, None, None, None].expand(-1, 3, 8, 8))
        memory = chosen._open
        assert memory is not None
        assert len(memory.frames) + len(memory.latents) <= 81
    chosen.end_shot()
    assert picked(chosen) == [159 + f for f in (0, 16, 32, 48, 64, 80)]


@pytest.mark.parametrize("length", [30, 40, 81, 100])
def test_past_shots_keep_their_frames_in_memory_that_is_there_after_the_second(length: int) -> None:
    chosen = selector(NumberCodec())
    pasts, sizes = [], []
    for shot in range(20):
        play(chosen, shot, length)
        pasts = [*pasts[-1:], chosen.past]  # as of the two shots begun last
        sizes.append(sum(len(piece) for piece, _ in chosen._lender._pieces))
        for memory in (memory for past in pasts for memory in past):
            assert memory.frames
            first = max(0, length - 81)
            for number, pixels in memory.frames.items():
                wanted = 1000.0 * memory.shot + first + number
                assert torch.equal(pixels, torch.full((3, 8, 8), wanted))
    assert sizes[1:] == [sizes[1]] * 19 and sizes[1] == 8 * 7 * 3 * 8 * 8 * 4


def test_a_snapshot_holds_no_memory_of_the_past() -> None:
    chosen = selector(NumberCodec())
    for shot in range(3):
        play(chosen, shot, 30)
    encoded = chosen.encoded(chosen.past)
    assert not any(memory.frames or memory.lent for memory in encoded)
    before = len(chosen._lender)
    chosen.load_past(encoded)
    for shot in range(3, 20):
        play(chosen, shot, 30)
    assert len(chosen._lender) == before


def test_abandoned_shot_leaves_nothing() -> None:
    chosen = selector(NumberCodec())
    play(chosen, 0, 81)
    chosen.begin_shot(1, "first try")
    chosen.add_frames(torch.full((9, 3, 8, 8), 5.0))
    chosen.begin_shot(1, "second try")
    chosen.end_shot()
    assert picked(chosen) == [0, 16, 32, 48, 64, 80]


def test_float_frames_are_kept_unrounded() -> None:
    chosen = selector(NumberCodec())
    chosen.begin_shot(0, "a")
    chosen.add_frames(torch.full((1, 3, 8, 8), 0.123456))
    chosen.end_shot()
    assert chosen.select().latents[0, 0, 0, 0, 0].item() == pytest.approx(0.123456, abs=1e-8)


@pytest.mark.parametrize(
    ("choice", "counts", "wanted"),
    [
        ("first", [81], [(0, 0)] * 6),
        ("first", [81, 81], [(0, 0)] * 3 + [(1, 0)] * 3),
        ("first", [81] * 4, [(0, 0), (1, 0), (2, 0), (2, 0), (3, 0), (3, 0)]),
        ("first", [81] * 8, [(shot, 0) for shot in range(2, 8)]),
        ("first_last", [81], [(0, 0)] * 3 + [(0, 80)] * 3),
        ("first_last", [81, 9], [(0, 0), (0, 80), (1, 0), (1, 0), (1, 8), (1, 8)]),
        ("first_last", [81] * 5, [(s, f) for s in (2, 3, 4) for f in (0, 80)]),
        ("first_last", [1], [(0, 0)] * 6),
        ("first", [], []),
    ],
)
def test_other_choices_take_ends_of_shots_and_fill_the_context(
    choice: ContextChoice, counts: list[int], wanted: list[tuple[int, int]]
) -> None:
    assert pick_context(counts, 6, choice) == wanted
    for shot, frame in wanted:
        assert frame in frames_wanted(counts[shot], 6, choice)


@pytest.mark.parametrize(("choice", "last"), [("first", 200), ("first_last", 280)])
def test_a_selector_follows_its_choice(choice: ContextChoice, last: int) -> None:
    chosen = ContextSelector(
        NumberCodec(),  # type: ignore[arg-type]
        budget=6,
        latent_shape=LATENT,
        shot_limit=81,
        choice=choice,
    )
    for shot in range(3):
        chosen.begin_shot(shot, "a")
        numbers = 100 * shot + torch.arange(81, dtype=torch.float32)
        chosen.add_frames(numbers[:, None, None, None].expand(-1, 3, 8, 8))
        chosen.end_shot()
    assert picked(chosen)[-1] == last
    assert len(picked(chosen)) == 6


@pytest.mark.parametrize("made", [90, 130, 300])
def test_a_shot_that_was_extended_goes_back_by_the_spare_frames(made: int) -> None:
    def extended() -> ContextSelector:
        chosen = ContextSelector(
            NumberCodec(),  # type: ignore[arg-type]
            budget=6, latent_shape=LATENT, shot_limit=81, spare_frames=24,
        )  # fmt: skip
        chosen.begin_shot(0, "a")
        return chosen

    def add(chosen: ContextSelector, first: int, end: int) -> None:
        for frame in range(first, end):
            chosen.add_frames(torch.full((1, 3, 8, 8), float(frame)))

    chosen, undisturbed = extended(), extended()
    add(chosen, 0, made)
    memory = chosen.newest
    assert memory is not None
    assert len(memory.kept) == min(made, 81 + 24)
    left = made - 24
    assert chosen.reopen(memory, (), made - 10), "ten frames back"
    assert chosen.reopen(memory, (), left), "all spare frames back"
    assert chosen.reopen(memory, (), left - 1) == (left <= 81), "one more is not kept"
    if left > 81:
        add(undisturbed, 0, left)
        remembered = [[frame.index for frame in one.remembered()] for one in (chosen, undisturbed)]
        assert remembered[0] == remembered[1]
        assert min(chosen.kept_frames()) == left - 81
    add(chosen, chosen.newest.frame_count, made + 5)  # type: ignore[union-attr]
    undisturbed = extended()
    add(undisturbed, 0, made + 5)
    for one in (chosen, undisturbed):
        one.end_shot()
    assert picked(chosen) == picked(undisturbed)


def test_two_rings_take_turns_and_the_first_is_there_from_the_beginning() -> None:
    chosen = selector(NumberCodec())
    rings = [chosen._free_ring]
    for shot in range(5):
        chosen.begin_shot(shot, "a")
        chosen.add_frames(torch.zeros(9, 3, 8, 8))
        assert chosen.newest is not None
        rings.append(chosen.newest.ring)
    assert rings[0] is not None and rings[2] is not None
    assert rings[1:] == [rings[0], rings[2], rings[0], rings[2], rings[0]]


def test_frames_of_another_size_than_the_codec_tells_are_kept_as_they_are() -> None:
    chosen = selector(NumberCodec())
    for shot in range(3):
        chosen.begin_shot(shot, "a")
        chosen.add_frames(torch.full((9, 3, 16, 24), float(shot)))
        assert chosen.newest is not None
        assert {frame.shape for frame in chosen.newest.frames.values()} == {(3, 16, 24)}
        chosen.end_shot()
    assert picked(chosen) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_codec_that_does_not_tell_its_type_is_refused_at_once(dtype: object) -> None:
    codec = NumberCodec()
    codec.dtype = dtype  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"got NumberCodec with dtype .*torch\.dtype"):
        selector(codec)


def test_frames_are_kept_in_the_type_that_they_are_encoded_in() -> None:
    codec = NumberCodec()
    codec.dtype = torch.bfloat16
    chosen = selector(codec, budget=6)
    play(chosen, 0, 81)
    memory = chosen.past[0]
    assert memory.frames
    assert {frame.dtype for frame in memory.frames.values()} == {torch.bfloat16}
