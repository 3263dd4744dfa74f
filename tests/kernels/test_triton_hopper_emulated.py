"""The sm_90 attention on a CPU: its own source, run by a stand-in for the Gluon language.

``gluon_stand_in.py`` says what that finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton.experimental.gluon", reason="triton with Gluon is not installed")

from shotstream_rt.kernels.gpu import (
    dual_attention_fp8_hopper,
    dual_attention_hopper,
    history_attention_hopper,
    hopper_launch,
)
from shotstream_rt.kernels.reference import dual_attention_fp8 as formats
from shotstream_rt.kernels.reference.dual_attention import dual_attention as reference
from shotstream_rt.kernels.reference.history_attention import history_attention
from shotstream_rt.kernels.reference.merge_splits import merge_splits

from .gluon_stand_in import emulate

Draw = Callable[..., Tensor]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[int]]]:
    """``on_cpu(multiprocessors, ...)`` has launches emulated; gives the sizes of their grids."""

    def install(
        multiprocessors: int, slow_role: int | None = None, ping_pong: bool = False
    ) -> list[int]:
        grids: list[int] = []

        def run(kernel: Any, grid: tuple[int], *args: Any, **named: Any) -> None:
            grids.append(grid[0])
            emulate(kernel, grid, slow_role, *args, **{**named, "PING_PONG": ping_pong})

        monkeypatch.setattr(hopper_launch, "run_kernel", run)
        monkeypatch.setattr(hopper_launch, "merge_splits", merge_splits)
        monkeypatch.setattr(hopper_launch, "_multiprocessors", lambda _: multiprocessors)
        return grids

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield install
    torch.set_num_threads(threads)


def distance(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape and bool(torch.isfinite(got).all())
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def arena(normal: Draw, keys: int, heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values that are the prefix of a larger, poisoned arena."""
    k, v = (torch.full((keys + 300, heads, 128), torch.nan, dtype=torch.bfloat16) for _ in "kv")
    for x in (k, v):
        x[:keys] = normal(keys, heads, 128, dtype=torch.bfloat16)
    return k[None, :keys], v[None, :keys]


@pytest.mark.parametrize("keys", [1, 127, 128, 129, 300, 512, 905])
def test_any_length(normal: Draw, on_cpu: Callable[..., list[int]], keys: int) -> None:
    on_cpu(multiprocessors=1)
    q = normal(1, 70, 2, 128, dtype=torch.bfloat16)
    k, v = arena(normal, keys, 2)
    got = dual_attention_hopper.dual_attention(q, k, v, 0.1)
    assert distance(got, reference(q.double(), k.double(), v.double(), 0.1)) < 4e-3


@pytest.mark.parametrize("slow_role", [None, 0, 1, 2], ids=["even", "first", "second", "loads"])
@pytest.mark.parametrize("ping_pong", [False, True], ids=["drift", "ping-pong"])
def test_no_order_of_events_matters(
    normal: Draw, on_cpu: Callable[..., list[int]], slow_role: int | None, ping_pong: bool
) -> None:
    on_cpu(1, slow_role, ping_pong)
    q = normal(1, 128, 1, 128, dtype=torch.bfloat16)
    k, v = arena(normal, 128 * 6 + 40, 1)
    got = dual_attention_hopper.dual_attention(q, k, v, 0.1)
    assert distance(got, reference(q.double(), k.double(), v.double(), 0.1)) < 4e-3


def test_split_and_whole_tiles_agree(normal: Draw, on_cpu: Callable[..., list[int]]) -> None:
    q = normal(1, 300, 3, 128, dtype=torch.bfloat16)
    k, v = arena(normal, 128 * 9 + 1, 3)
    wanted = reference(q.double(), k.double(), v.double(), 0.1)
    # 9 tiles: all whole; 7 whole and 2 cut; all cut.
    for multiprocessors, programs in ((3, [9]), (7, [13]), (40, [36])):
        grids = on_cpu(multiprocessors)
        assert distance(dual_attention_hopper.dual_attention(q, k, v, 0.1), wanted) < 4e-3
        assert grids == programs


def test_strided_operands_are_read_in_place(normal: Draw, on_cpu: Callable[..., list[int]]) -> None:
    on_cpu(1)
    q, k, v = normal(1, 140, 6, 128, dtype=torch.bfloat16).chunk(3, 2)
    got = dual_attention_hopper.dual_attention(q, k, v, 0.1)
    assert distance(got, reference(q.double(), k.double(), v.double(), 0.1)) < 4e-3


def test_large_logits_do_not_overflow(normal: Draw, on_cpu: Callable[..., list[int]]) -> None:
    on_cpu(1)
    q = normal(1, 64, 1, 128, dtype=torch.bfloat16) * 30
    k, v = arena(normal, 400, 1)
    got = dual_attention_hopper.dual_attention(q, k, v, 1.0)
    assert distance(got, reference(q.double(), k.double(), v.double(), 1.0)) < 2e-2


SPANS = {
    "one": [[(0, 700)], [(0, 1)], [(699, 700)]],
    "context and recent": [[(0, 700)], [(0, 70), (300, 700)], [(0, 128), (444, 700)]],
    "across the ring's end": [[(0, 40), (60, 200), (650, 700)], [(3, 131), (500, 501)], [(9, 650)]],
}


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("slow_role", [None, 1, 2], ids=["even", "second", "loads"])
def test_every_head_reads_its_own_spans(
    normal: Draw, on_cpu: Callable[..., list[int]], spans: Any, slow_role: int | None
) -> None:
    grids = on_cpu(7, slow_role)
    q = normal(1, 200, 3, 128, dtype=torch.bfloat16)
    k, v = arena(normal, 700, 3)
    got = history_attention_hopper.history_attention(q, k, v, 0.1, spans)
    wanted = history_attention(q.double(), k.double(), v.double(), 0.1, spans)
    assert distance(got, wanted) < 4e-3
    assert grids == [6], "no tile is cut"


@pytest.mark.parametrize("keys", [1, 15, 137, 128 * 11 + 8], ids=str)
@pytest.mark.parametrize("multiprocessors", [1, 9], ids=["whole", "cut"])
def test_keys_in_8_bits(
    normal: Draw, on_cpu: Callable[..., list[int]], keys: int, multiprocessors: int
) -> None:
    on_cpu(multiprocessors)
    q = normal(1, 150, 2, 128, dtype=torch.bfloat16)
    k, v = arena(normal, keys, 2)
    scales = formats.head_scales(k)
    k8 = formats.quantise(k, scales)
    got = dual_attention_fp8_hopper.dual_attention_qk8(q, k8, v, 0.1, scales)
    assert distance(got, formats.dual_attention_qk8(q, k8, v, 0.1, scales)) < 6e-3


@pytest.mark.parametrize("keys", [1, 8, 24, 137, 128 * 19 + 8], ids=str)
@pytest.mark.parametrize("multiprocessors", [1, 9], ids=["whole", "cut"])
def test_all_in_8_bits(
    normal: Draw, on_cpu: Callable[..., list[int]], keys: int, multiprocessors: int
) -> None:
    on_cpu(multiprocessors)
    q = normal(1, 150, 2, 128, dtype=torch.bfloat16)
    k, v, k_scales, v_scales = arena_fp8(normal, keys, 2)
    got = dual_attention_fp8_hopper.dual_attention_fp8(q, k, v, keys, 0.1, k_scales, v_scales)
    wanted = formats.dual_attention_fp8(q, k, v, keys, 0.1, k_scales, v_scales)
    # Weights are rounded to three bits.
    assert distance(got, wanted) < 4e-2
    shares = v_scales / v_scales.amax()
    out = dual_attention_fp8_hopper.dual_attention_fp8_out(q, k, v, keys, 0.1, k_scales, shares)
    assert out.dtype == torch.float8_e4m3fn
    # And so is the result.
    assert distance(out.float() * v_scales.amax(), wanted) < 6e-2


def arena_fp8(normal: Draw, keys: int, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same in 8 bits: poison behind the prefix, and in rows between keys."""
    k, v = (normal(keys, heads, 128) for _ in range(2))
    scales = formats.head_scales(k), formats.head_scales(v)
    tokens = math.ceil(keys / 16) * 16 + 160
    k8 = torch.full((1, tokens, heads, 128), torch.nan).to(torch.float8_e4m3fn)
    v8 = torch.full((heads, 128, tokens), torch.nan).to(torch.float8_e4m3fn)
    k8.view(torch.uint8)[0, formats.key_rows(keys)] = formats.quantise(k, scales[0]).view(
        torch.uint8
    )
    v8[:, :, :keys] = formats.quantise(v, scales[1]).permute(1, 2, 0)
    return k8, v8, *scales
