"""Shares, means and their intervals."""

from __future__ import annotations

import math

import pytest
import torch

from shotstream_distill.evaluation.intervals import Estimate, Share, mean_over_stories, resample


def test_wilson_interval_matches_known_values() -> None:
    share = Share(hits=8, trials=10)
    low, high = share.interval
    assert math.isclose(low, 0.4902, abs_tol=2e-4)
    assert math.isclose(high, 0.9433, abs_tol=2e-4)
    assert Share().interval == (0.0, 1.0)


def test_none_is_no_trial() -> None:
    share = Share.of([True, None, False, None])
    assert (share.hits, share.trials) == (1, 2)


def test_the_mean_s_interval_has_its_known_width() -> None:
    torch.manual_seed(0)
    stories = [[float(v)] for v in torch.randn(400)]
    found = mean_over_stories(stories)
    assert found is not None
    assert found.n == 400
    # Standard error of 400 unit normals: 0.05, so the interval is 0.196 wide.
    assert abs((found.high - found.low) - 0.196) < 0.03
    assert found.low < found.value < found.high


def test_values_of_one_story_move_together() -> None:
    torch.manual_seed(0)
    single = [[float(v)] for v in torch.randn(50)]
    repeated = [story * 20 for story in single]
    alone, together = mean_over_stories(single), mean_over_stories(repeated)
    assert alone is not None
    assert together is not None
    assert together.n == 1000
    # Twenty copies of a value tell no more than one.
    assert math.isclose(together.high - together.low, alone.high - alone.low, rel_tol=1e-6)


def test_what_is_not_finite_is_left_out() -> None:
    found = mean_over_stories([[1.0, math.nan], [], [3.0]])
    assert found is not None
    assert (found.value, found.n) == (2.0, 2)
    assert mean_over_stories([[], [math.nan]]) is None


def test_resampling_is_reproducible_and_skips_undefined_rounds() -> None:
    def statistic(rows: torch.Tensor) -> float:
        return math.nan if bool((rows == 0).all()) else float(rows.float().mean())

    first, second = (resample(3, statistic, rounds=200, seed=4) for _ in range(2))
    assert first == second
    assert math.isfinite(first.low)
    assert math.isfinite(first.high)


@pytest.mark.parametrize(("low", "high", "apart"), [(0.6, 0.7, True), (0.4, 0.6, False)])
def test_intervals_are_apart_or_not(low: float, high: float, apart: bool) -> None:
    mine = Estimate(value=0.45, low=0.4, high=0.5, n=10)
    other = Estimate(value=0.6, low=low, high=high, n=10)
    assert mine.apart_from(other) is apart
    assert other.apart_from(mine) is apart
