"""The attention written for sm_90: what it refuses, and on that chip, what it computes."""

from __future__ import annotations

from collections.abc import Callable

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
from shotstream_rt.kernels.gpu.hopper_launch import (
    BFLOAT16,
    FP8,
    QK8,
    HopperLaunch,
    launch_attention,
)
from shotstream_rt.kernels.gpu.key_split import KeySplit
from shotstream_rt.kernels.reference import dual_attention_fp8 as formats
from shotstream_rt.kernels.reference.dual_attention import dual_attention as reference
from shotstream_rt.kernels.reference.history_attention import history_attention
from shotstream_rt.kernels.sets.kernel_set import gluon_unavailable_reason

Draw = Callable[..., Tensor]
LIMIT = {"bf16": 4e-3, "qk8": 6e-3, "fp8": 3.5e-2}
"""Largest relative distance to the same 8-bit operands, attended to in float64."""

REFUSED = {
    "batch": (torch.zeros(2, 4, 1, 128), "q: got shape"),
    "width": (torch.zeros(1, 4, 1, 64), "q: got shape"),
    "heads": (torch.zeros(1, 2, 4, 128).transpose(1, 2), "heads of a token side by side"),
    "address": (torch.zeros(1 * 4 * 128 + 1, dtype=torch.bfloat16)[1:].view(1, 4, 1, 128), "16"),
}


@pytest.fixture
def hopper() -> torch.device:
    """The GPU, if it is the one that the kernel is for."""
    device = torch.device("cuda")
    reason = gluon_unavailable_reason(device, torch.bfloat16, 128)
    if reason is not None:
        pytest.skip(reason)
    return device


@pytest.mark.parametrize("q,message", REFUSED.values(), ids=REFUSED.keys())
def test_operands_that_cannot_be_read_in_place_are_refused(q: Tensor, message: str) -> None:
    kv = torch.zeros(1, 4, 1, 128)
    with pytest.raises(ValueError, match=message):
        dual_attention_hopper.dual_attention(q, kv, kv, 1.0)


def test_a_bias_and_a_scale_that_turns_logits_around_are_refused() -> None:
    x = torch.zeros(1, 4, 1, 128)
    with pytest.raises(ValueError, match="bias: got a tensor"):
        dual_attention_hopper.dual_attention(x, x, x, 1.0, torch.zeros(4))
    with pytest.raises(ValueError, match=r"scale: got -1\.0"):
        dual_attention_hopper.dual_attention(x, x, x, -1.0)
    with pytest.raises(ValueError, match="v: got shape"):
        dual_attention_hopper.dual_attention(x, x, x[:, :3], 1.0)


@pytest.mark.parametrize(
    "rows,values,message",
    [
        (31, (1, 128, 48), "k: got 31 rows, wanted 32"),
        (32, (1, 128, 16), "v: got shape"),
        (32, (1, 64, 48), "v: got shape"),
        (32, (1, 128, 40), "v: got strides"),
    ],
)
def test_8_bit_arenas_of_other_shapes_are_refused(
    rows: int, values: tuple[int, ...], message: str
) -> None:
    q = torch.zeros(1, 4, 1, 128, dtype=torch.bfloat16)
    k = torch.zeros(1, rows, 1, 128).to(torch.float8_e4m3fn)
    v = torch.zeros(values).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=message):
        dual_attention_fp8_hopper.dual_attention_fp8(q, k, v, 20, 1.0, q, q)


def operands(
    precision: str, normal: Draw, queries: int, keys: int, heads: int, device: torch.device
) -> tuple[Callable[..., Tensor], Tensor]:
    """``attend(split, launch)`` over a poisoned arena, and what it has to give, in float64."""
    q = normal(1, queries, heads, 128, dtype=torch.bfloat16).to(device)
    k, v = (normal(keys, heads, 128, dtype=torch.bfloat16).to(device) for _ in range(2))
    rows = -(-keys // 16) * 16 + 512
    arena = torch.full((2, 1, rows, heads, 128), torch.nan, dtype=torch.bfloat16, device=device)
    arena[0, 0, :keys], arena[1, 0, :keys] = k, v
    k_scales, v_scales = formats.head_scales(k), formats.head_scales(v)
    k8, v8 = formats.quantise(k, k_scales), formats.quantise(v, v_scales)
    wide_q, wide_k, wide_v = q.double(), k[None].double(), v[None].double()
    if precision != "bf16":
        wide_q, wide_k = formats.rounded_queries(q).double(), k8[None].double() * k_scales[:, None]
    small = torch.full((rows, heads, 128), torch.nan, device=device).to(torch.float8_e4m3fn)
    small_v = torch.full((heads, 128, rows), torch.nan, device=device).to(torch.float8_e4m3fn)
    given_k, given_v = arena[0, :, :keys], arena[1, :, :keys]
    if precision == "qk8":
        small.view(torch.uint8)[:keys] = k8.view(torch.uint8)
        given_k = small[None, :keys]
    elif precision == "fp8":
        wide_v = v8[None].double() * v_scales[:, None]
        small.view(torch.uint8)[formats.key_rows(keys, device)] = k8.view(torch.uint8)
        small_v[:, :, :keys] = v8.permute(1, 2, 0)
        given_k, given_v = small[None, : rows - 512], small_v
    launches = {"bf16": BFLOAT16, "qk8": QK8, "fp8": FP8}
    wanted = torch.cat(
        [
            reference(wide_q[:, :, [h]], wide_k[:, :, [h]], wide_v[:, :, [h]], 0.09)
            for h in range(heads)
        ],
        2,
    )

    def attend(split: KeySplit | None = None, launch: HopperLaunch | None = None) -> Tensor:
        chosen = launch or launches[precision]
        return launch_attention(chosen, q, given_k, given_v, keys, 0.09, k_scales, v_scales, split)

    return attend, wanted


def assert_near(got: Tensor, wanted: Tensor, limit: float) -> None:
    assert bool(torch.isfinite(got).all())
    assert float((got.double() - wanted).norm() / wanted.norm()) < limit


@pytest.mark.gpu
@pytest.mark.parametrize("precision", LIMIT)
@pytest.mark.parametrize("splits", [1, 2, 5], ids=lambda n: f"S{n}")
@pytest.mark.parametrize(
    "queries,keys,heads",
    [(1, 1, 1), (64, 8, 2), (129, 127, 3), (200, 128, 2), (392, 1560, 12), (300, 3121, 5)],
    ids=str,
)
def test_lengths_and_splits(
    hopper: torch.device, normal: Draw, precision: str, queries: int, keys: int, heads: int,
    splits: int,
) -> None:  # fmt: skip
    attend, wanted = operands(precision, normal, queries, keys, heads, hopper)
    tiles = -(-queries // 128) * heads
    whole = tiles if splits == 1 else tiles // 2
    split = KeySplit(tiles=tiles, whole=whole, splits=min(splits, -(-keys // 128)))
    first = attend(split)
    assert_near(first, wanted, LIMIT[precision])
    assert torch.equal(first, attend(split)), "two runs differ: a race"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", LIMIT)
def test_the_product_shape(hopper: torch.device, normal: Draw, precision: str) -> None:
    attend, wanted = operands(precision, normal, 4680, 42120, 2, hopper)
    assert_near(attend(), wanted, LIMIT[precision])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", LIMIT)
@pytest.mark.parametrize("stages,ping_pong", [(2, True), (1, False)], ids=["ping-pong", "single"])
def test_other_launches_give_the_same(
    hopper: torch.device, normal: Draw, precision: str, stages: int, ping_pong: bool
) -> None:
    attend, wanted = operands(precision, normal, 392, 3120, 4, hopper)
    launch = HopperLaunch(
        qk8=precision != "bf16", pv8=precision == "fp8", stages=stages, ping_pong=ping_pong
    )
    split = KeySplit(tiles=16, whole=12, splits=3)
    assert_near(attend(split, launch), wanted, LIMIT[precision])


@pytest.mark.gpu
def test_sums_of_like_values_do_not_drift(hopper: torch.device, normal: Draw) -> None:
    # All values positive: what the matrix unit drops of each 8-bit sum adds up, and the rounding of
    # weights averages out.
    keys, scales = 42112, torch.ones(1, device=hopper)
    q = normal(1, 128, 1, 128, dtype=torch.bfloat16).to(hopper)
    k = normal(1, keys, 1, 128).to(hopper, torch.float8_e4m3fn)
    v = (normal(1, 128, keys).to(hopper) / 4 + 1.5).to(torch.float8_e4m3fn)
    got = dual_attention_fp8_hopper.dual_attention_fp8(q, k, v, keys, 0.02, scales, scales)
    wide_k = k[:, formats.key_rows(keys, hopper)].double()
    wide_v = v.permute(2, 0, 1)[None].double()
    assert_near(got, reference(formats.rounded_queries(q).double(), wide_k, wide_v, 0.02), 4e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("splits", [1, 5], ids=lambda n: f"S{n}")
def test_the_result_stays_in_8_bits(hopper: torch.device, normal: Draw, splits: int) -> None:
    queries, keys, heads = 300, 3121, 5
    q = normal(1, queries, heads, 128, dtype=torch.bfloat16).to(hopper)
    k, v = (normal(keys, heads, 128).to(hopper) for _ in "kv")
    v *= torch.arange(1, heads + 1, device=hopper)[:, None]
    k_scales, v_scales = formats.head_scales(k), formats.head_scales(v)
    k8, v8 = formats.arena_of(formats.quantise(k, k_scales), formats.quantise(v, v_scales))
    tiles = -(-queries // 128) * heads
    split = KeySplit(tiles=tiles, whole=tiles if splits == 1 else 9, splits=splits)
    shares = v_scales / v_scales.amax()
    given = FP8, q, k8, v8, keys, 0.09, k_scales
    wide = launch_attention(*given, v_scales, split)
    out = launch_attention(*given, shares, split, result=torch.float8_e4m3fn)
    # One rounding to three bits is 2.6 % off.
    assert_near(out.float() * v_scales.amax(), wide.double(), 3e-2)


@pytest.mark.gpu
def test_every_head_reads_its_own_spans(hopper: torch.device, normal: Draw) -> None:
    q = normal(1, 4680, 3, 128, dtype=torch.bfloat16).to(hopper)
    k, v = (normal(1, 12480, 3, 128, dtype=torch.bfloat16).to(hopper) for _ in "kv")
    spans = [[(0, 12480)], [(0, 1560), (3000, 4679), (9360, 12480)], [(0, 1), (12000, 12480)]]
    got = history_attention_hopper.history_attention(q, k, v, 0.09, spans)
    wanted = history_attention(q.double(), k.double(), v.double(), 0.09, spans)
    assert_near(got, wanted, LIMIT["bf16"])
    again = history_attention_hopper.history_attention(q, k, v, 0.09, spans)
    assert torch.equal(got, again), "two runs differ: a race"


@pytest.mark.gpu
def test_a_captured_launch_replays(hopper: torch.device, normal: Draw) -> None:
    attend, wanted = operands("bf16", normal, 300, 905, 3, hopper)
    split = KeySplit(tiles=9, whole=6, splits=2)
    attend(split)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(split)
    out.fill_(torch.nan)
    graph.replay()
    assert_near(out, wanted, LIMIT["bf16"])


@pytest.mark.gpu
def test_the_split_is_chosen_from_the_gpu(hopper: torch.device) -> None:
    count = torch.cuda.get_device_properties(hopper).multi_processor_count
    assert hopper_launch._multiprocessors(hopper) == count
