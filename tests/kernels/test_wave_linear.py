"""The product in whole waves: its formula, its plan, and that cutting a tile changes no bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.gpu.wave_split import (
    MOST_IN_A_GROUP,
    WaveSplit,
    plan_wave_split,
    worth_cutting,
)

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]
H200 = 132


def operands(normal: Draw, rows: int, width: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    return normal(1, rows, width), normal(columns, width) / width**0.5, normal(columns)


@pytest.mark.parametrize(
    ("rows", "width", "columns"),
    [(1, 16, 8), (33, 40, 70), (130, 96, 100), (70, 160, 96)],
)
def test_matches_the_formula(
    twin: Any, dtype: torch.dtype, normal: Draw, assert_close: Check, rows: int, width: int,
    columns: int,
) -> None:  # fmt: skip
    x, weight, bias = (t.to(dtype) for t in operands(normal, rows, width, columns))
    module = twin.load("wave_linear")
    got = module.wave_linear(*(t.to(twin.device) for t in (x, weight, bias)))
    wanted = x.double() @ weight.double().T + bias.double()
    assert got.dtype == dtype
    assert_close("wave_linear", got, wanted)


def test_rows_may_be_apart_and_what_lies_between_is_not_read(
    twin: Any, normal: Draw, assert_close: Check
) -> None:
    x, weight, bias = operands(normal, 40, 48, 36)
    apart = torch.full((1, 40, 80), torch.nan)
    apart[..., :48] = x
    module = twin.load("wave_linear")
    moved = apart.to(twin.device)[..., :48]
    got = module.wave_linear(moved, weight.to(twin.device), bias.to(twin.device))
    assert_close("wave_linear", got, x.double() @ weight.double().T + bias.double())


@pytest.mark.parametrize("group", [2, 3, 4])
def test_cutting_a_tile_changes_no_bit(
    triton_device: torch.device, dtype: torch.dtype, normal: Draw, group: int
) -> None:
    from shotstream_rt.kernels.gpu.wave_product import launch_product
    from shotstream_rt.kernels.tuning import capability_of, product_launch

    probe = torch.empty(1, dtype=dtype, device=triton_device)
    launch = product_launch(capability_of(probe), probe.element_size())
    rows, columns = 3 * launch.block_t - 8, 2 * launch.block_n - 4
    drawn = operands(normal, rows, 4 * launch.block_k + 8, columns)
    x, weight, bias = (t.to(triton_device, dtype) for t in drawn)
    whole = launch_product(x, weight, bias, WaveSplit(tiles=6, programs=6, waves=1, group=1))
    assert whole.isfinite().all()
    for cut in (1, 2):
        split = WaveSplit(tiles=6, programs=6 - cut, waves=1, group=group)
        assert split.cut == cut
        assert -(-cut // (group - 1)) * group <= split.programs
        for _ in range(2):
            assert torch.equal(launch_product(x, weight, bias, split), whole)


@pytest.mark.parametrize("multiprocessors", [1, 7, 114, 132])
@pytest.mark.parametrize("tiles", [1, 6, 131, 132, 133, 222, 264, 265, 444, 666])
@pytest.mark.parametrize("blocks", [1, 2, 24, 140])
def test_every_tile_is_made_once(tiles: int, blocks: int, multiprocessors: int) -> None:
    split = plan_wave_split(tiles, blocks, multiprocessors)
    assert split.programs <= multiprocessors
    assert 1 <= split.group <= min(MOST_IN_A_GROUP, blocks) or split.group == 1
    made = dict.fromkeys(range(tiles), 0)
    whole = split.waves * split.programs
    for program in range(split.programs):
        for wave in range(split.waves):
            if wave * split.programs + program < tiles:
                made[wave * split.programs + program] += blocks
        member, group = program % split.group, split.group
        begun = whole + program // group * (group - 1) + member
        if member < group - 1 and begun < tiles and group > 1:
            length = blocks * (group - 1 - member) // group
            assert 0 < length < blocks
            made[begun] += length
        if member > 0 and begun - 1 < tiles:
            made[begun - 1] += blocks - blocks * (group - member) // group
    assert set(made.values()) == {blocks}
    assert split.length <= -(-tiles // multiprocessors)


@pytest.mark.parametrize(
    ("columns", "length"), [(1536, 1.75), (4608, 5.5), (8960, 9 + 5 / 6)], ids=["down", "qkv", "up"]
)
def test_the_last_wave_of_the_students_products(columns: int, length: float) -> None:
    tiles = -(-4680 // 128) * (columns // 256)
    assert plan_wave_split(tiles, 140, H200).length == length


@pytest.mark.parametrize(
    ("columns", "width", "pays"),
    [(1536, 8960, True), (1536, 1536, False), (4608, 1536, False), (3328, 8960, False)],
    ids=["down", "out", "qkv", "nearly full"],
)
def test_only_what_saves_enough_is_cut(columns: int, width: int, pays: bool) -> None:
    tiles, blocks = -(-4680 // 128) * (columns // 256), width // 64
    assert worth_cutting(plan_wave_split(tiles, blocks, H200), blocks) is pays


def test_a_set_cuts_the_products_that_it_pays_for(
    triton_device: torch.device, monkeypatch: pytest.MonkeyPatch, normal: Draw, assert_close: Check
) -> None:
    from shotstream_rt.kernels.gpu import wave_product
    from shotstream_rt.kernels.sets import waves_set
    from shotstream_rt.kernels.sets.kernel_set import triton_kernels

    tiles: list[int] = []

    def launched(x: Tensor, weight: Tensor, bias: Tensor, split: WaveSplit) -> Tensor:
        tiles.append(split.tiles)
        return wave_product.launch_product(x, weight, bias, split)

    monkeypatch.setattr(waves_set, "launch_product", launched)
    monkeypatch.setattr(wave_product, "_multiprocessors", lambda device: 4)
    kernels = waves_set.with_waves(triton_kernels())
    assert kernels.name == "triton+waves"
    # Tiles of float32 are 32 x 32: six on four multiprocessors, and four.
    for width, columns, cut in ((800, 96, True), (800, 64, False), (64, 96, False)):
        layer = torch.nn.Linear(width, columns).to(triton_device).requires_grad_(False)
        x = normal(1, 64, width).to(triton_device)
        tiles.clear()
        got = kernels.fuse_linear([layer], False)(x)
        assert tiles == ([6] if cut else [])
        wanted = x.double() @ layer.weight.double().T + layer.bias.double()
        assert_close("wave_linear", got, wanted.cpu())
        if not cut:
            assert torch.equal(got, triton_kernels().fuse_linear([layer], False)(x))
    gelu = kernels.fuse_linear([layer], True)(x)
    assert torch.equal(gelu, triton_kernels().fuse_linear([layer], True)(x))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=["bf16"])
def test_a_recorded_product_is_the_same_each_time(
    dtype: torch.dtype, normal: Draw, assert_close: Check
) -> None:
    """Of the student's size; marks are cleared inside the recording."""
    from shotstream_rt.backends.cuda_graph import GraphCapture
    from shotstream_rt.kernels.gpu.wave_linear import wave_linear

    device = torch.device("cuda")
    x, weight, bias = (t.to(device, dtype) for t in operands(normal, 4680, 8960, 1536))
    first = wave_linear(x, weight, bias)
    out = torch.empty_like(first)

    def multiply() -> None:
        out.copy_(wave_linear(x, weight, bias))

    replay = GraphCapture(device)(multiply)
    for _ in range(5):
        out.fill_(torch.nan)
        replay()
        torch.cuda.synchronize()
        assert torch.equal(out, first)
    wanted = x.double() @ weight.double().T + bias.double()
    assert_close("wave_linear", first, wanted.cpu())
