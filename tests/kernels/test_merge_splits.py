from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

Draw = Callable[..., Tensor]


@pytest.fixture
def merge(twin: Any) -> Callable[..., Tensor]:
    """``merge(parts, log_sums, out, first_tile)`` with tensors on the host; gives ``out``."""
    module: ModuleType = twin.load("merge_splits")

    def run(parts: Tensor, log_sums: Tensor, out: Tensor, first_tile: int) -> Tensor:
        there = out.to(twin.device)
        module.merge_splits(parts.to(twin.device), log_sums.to(twin.device), there, first_tile)
        return there.cpu()

    return run


@pytest.mark.parametrize("splits", [1, 2, 5])
@pytest.mark.parametrize("first_tile,tiles,queries,heads", [(0, 2, 128, 2), (2, 3, 300, 2)])
def test_parts_over_separate_keys_make_the_whole(
    merge: Callable[..., Tensor], normal: Draw, splits: int, first_tile: int, tiles: int,
    queries: int, heads: int,
) -> None:  # fmt: skip
    width, keys, blocks = 32, 20, -(-queries // 128)
    logits = normal(tiles, splits, 128, keys) * 5
    values = normal(tiles, splits, keys, width)
    parts = logits.softmax(-1) @ values
    log_sums = logits.logsumexp(-1) / torch.tensor(2.0).log()
    together = logits.transpose(1, 2).flatten(2).softmax(-1) @ values.flatten(1, 2)
    out = merge(parts, log_sums, torch.full((queries, heads, width), torch.nan), first_tile)
    covered = torch.zeros(queries, heads, dtype=torch.bool)
    for index in range(tiles):
        head, first = divmod(first_tile + index, blocks)
        rows = min(128, queries - first * 128)
        covered[first * 128 : first * 128 + rows, head] = True
        got = out[first * 128 : first * 128 + rows, head]
        torch.testing.assert_close(got, together[index, :rows], rtol=2e-5, atol=2e-6)
    assert bool(out[~covered].isnan().all()), "rows of other tiles were written"


def test_a_part_of_no_weight_counts_for_nothing(merge: Callable[..., Tensor], normal: Draw) -> None:
    parts = normal(1, 2, 128, 16)
    log_sums = torch.stack([torch.full((128,), 500.0), torch.full((128,), -500.0)])[None]
    out = merge(parts, log_sums, torch.full((100, 1, 16), torch.nan), 0)
    torch.testing.assert_close(out[:, 0], parts[0, 0, :100])


def test_results_are_rounded_once(merge: Callable[..., Tensor], normal: Draw) -> None:
    parts, log_sums = normal(1, 3, 128, 16), normal(1, 3, 128)
    exact = merge(parts, log_sums, torch.zeros(128, 1, 16), 0)
    rounded = merge(parts, log_sums, torch.zeros(128, 1, 16, dtype=torch.bfloat16), 0)
    # The interpreter truncates: one unit in the last place instead of half of one.
    assert bool(((rounded - exact).abs() <= exact.abs() * 2**-7 + 1e-7).all())
