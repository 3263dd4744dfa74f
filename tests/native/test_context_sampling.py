"""Context picks against torch.linspace over the film's frame numbers, as the original does it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shotstream_rt._native import context_candidates, sample_context
from shotstream_rt.errors import ConfigError


def naive_sample(frame_counts: list[int], budget: int) -> list[tuple[int, int]]:
    shots = len(frame_counts)
    picks: list[tuple[int, int]] = []
    start = 0
    for shot, frames in enumerate(frame_counts):
        count = budget // shots + (1 if shot >= shots - budget % shots else 0)
        line = torch.linspace(start, start + frames - 1, count, dtype=torch.float32)
        picks += [(shot, int(value) - start) for value in line.round().tolist()]
        start += frames
    return picks


@given(
    frame_counts=st.lists(st.integers(1, 200), min_size=1, max_size=12), budget=st.integers(1, 12)
)
def test_sampling_equals_torch(frame_counts: list[int], budget: int) -> None:
    picks = sample_context(frame_counts, budget)
    assert len(picks) == budget
    assert picks == naive_sample(frame_counts, budget)


@given(frame_counts=st.lists(st.integers(1, 90), min_size=1, max_size=12), budget=st.integers(1, 9))
def test_candidates_cover_every_pick(frame_counts: list[int], budget: int) -> None:
    for shot, frame in sample_context(frame_counts, budget):
        assert frame in context_candidates(frame_counts[shot], budget)


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 33, 81, 82])
def test_every_candidate_can_be_picked(frames: int) -> None:
    picked = set()
    for budget_shots in range(1, 7):
        for before in (1, 2):
            for place in range(budget_shots):
                counts = [frames] * budget_shots
                counts[:place] = [frames + before] * place
                picked |= {f for s, f in sample_context(counts, 6) if counts[s] == frames}
    assert picked == set(context_candidates(frames, 6))


def test_shots_of_the_trained_length_need_seven_frames_kept() -> None:
    assert context_candidates(81, 6) == [0, 16, 32, 40, 48, 64, 80]


def test_no_past_shot_gives_nothing() -> None:
    assert sample_context([], 6) == []


def test_shots_beyond_the_budget_are_forgotten() -> None:
    assert sample_context([81] * 9, 6) == [(shot, 0) for shot in range(3, 9)]


@pytest.mark.parametrize(("counts", "budget"), [([81], 0), ([81, 0], 6), ([-1], 6)])
def test_nonsense_is_rejected(counts: list[int], budget: int) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        sample_context(counts, budget)
