"""The plan of cut keys: every tile once, and no wave for nothing."""

from __future__ import annotations

import pytest

from shotstream_rt.kernels.gpu.key_split import MOST_SPLITS, plan_key_split

H200 = 132


@pytest.mark.parametrize("frames", range(3, 28, 3))
def test_the_product_pays_no_fourth_wave(frames: int) -> None:
    blocks = -(-frames * 1560 // 128)
    split = plan_key_split(37 * 12, blocks, H200)
    assert split.whole == 3 * H200
    assert split.cut == 48
    waves = 3 + -(-split.parts // H200) / split.splits
    assert waves <= 3.5
    assert 37 * 12 / H200 / waves > 0.96


@pytest.mark.parametrize("multiprocessors", [1, 7, 114, 132])
@pytest.mark.parametrize("tiles", [1, 6, 131, 132, 133, 264, 265, 444])
@pytest.mark.parametrize("blocks", [1, 2, 37, 330])
def test_every_tile_has_its_programs(tiles: int, blocks: int, multiprocessors: int) -> None:
    split = plan_key_split(tiles, blocks, multiprocessors)
    assert split.tiles == tiles
    assert split.whole + split.cut == tiles
    assert split.programs == split.whole + split.cut * split.splits
    assert 1 <= split.splits <= min(MOST_SPLITS, blocks)
    assert split.cut == 0 or split.splits > 1
    if split.cut:
        assert split.whole % multiprocessors == 0


def test_full_waves_are_left_alone() -> None:
    assert plan_key_split(2 * H200, 330, H200).cut == 0
    assert plan_key_split(2 * H200 - 1, 330, H200).cut == 0


def test_a_small_launch_is_spread_over_the_whole_gpu() -> None:
    split = plan_key_split(12, 330, H200)
    assert split.whole == 0
    assert split.programs > H200 * 0.9
