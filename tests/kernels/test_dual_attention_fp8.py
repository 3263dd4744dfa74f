from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.kernels.reference import dual_attention_fp8 as formats
from shotstream_rt.kernels.reference.dual_attention import dual_attention as exact
from shotstream_rt.kernels.reference.qk_norm import rms_norm
from shotstream_rt.kernels.reference.rope_shot import rope_angles, rotate, rotation

Draw = Callable[..., Tensor]
TOLERANCE = {"reference": 3.5e-2, "cpu": 8e-2, "cuda": 3.5e-2}
"""Largest relative distance to the formats' own numbers, attended to exactly: weights in e4m3 are
2.6 % off each, and the interpreter, which truncates to it, more."""
TOLERANCE_OF_KEYS = {**TOLERANCE, "reference": 4e-3}
"""The same where weights and values are as they are."""


def arena_fp8(normal: Draw, keys: int, heads: int, width: int) -> tuple[Tensor, ...]:
    """Keys and values as the 8-bit arena holds them, NaN in every place of no token."""
    k, v = (normal(keys, heads, width) for _ in range(2))
    k_scales, v_scales = formats.head_scales(k), formats.head_scales(v)
    tokens = -(-keys // 16) * 16 + 32
    k8 = torch.full((1, tokens, heads, width), torch.nan).to(torch.float8_e4m3fn)
    v8 = torch.full((heads, width, tokens), torch.nan).to(torch.float8_e4m3fn)
    # torch assigns 8-bit numbers by index as bytes only.
    k8.view(torch.uint8)[0, formats.key_rows(keys)] = formats.quantise(k, k_scales).view(
        torch.uint8
    )
    v8[:, :, :keys] = formats.quantise(v, v_scales).permute(1, 2, 0)
    return k8, v8, k_scales, v_scales, k, v


def close(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    got = got.cpu().double()
    assert got.shape == wanted.shape
    assert bool(torch.isfinite(got).all())
    return bool((got - wanted).norm() <= tolerance * wanted.norm())


def tolerance_of(twin: Any, table: dict[str, float] = TOLERANCE) -> float:
    kind = "reference" if twin.package.endswith("reference") else twin.device.type
    if kind == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no e4m3 before sm_89")
    return table[kind]


def test_scales_are_the_smallest_that_overflow_nothing(normal: Draw) -> None:
    x = normal(50, 3, 16) * torch.tensor([0.01, 1.0, 300.0])[:, None]
    scales = formats.head_scales(x)
    assert scales.shape == (3,)
    torch.testing.assert_close((x / scales[:, None]).abs().amax((0, 2)), torch.full((3,), 448.0))
    assert float(formats.head_scales(torch.zeros(2, 1, 4))) > 0


def test_no_key_of_a_norm_overflows(normal: Draw) -> None:
    heads, dim = 3, 24
    weight = normal(dim)
    limits = 448 * formats.key_scales(weight, heads)
    table = rotation(rope_angles([3, 90], [0.2, 0.3], (4, 4), dim // heads))
    # One feature alone makes a key as long as it can be.
    for x in (normal(32, dim), torch.eye(dim).repeat(2, 1)[:32] * 1e3):
        keys = rms_norm(x, weight, 1e-6).view(32, heads, -1)
        for made in (keys, rotate(keys, table)):
            assert bool((made.abs().amax((0, 2)) <= limits * 1.0001).all())
    single = rms_norm(torch.eye(dim), weight, 0.0).view(dim, heads, -1).abs().amax((0, 2))
    torch.testing.assert_close(single, limits)


def test_no_value_of_a_norm_overflows(normal: Draw) -> None:
    heads, dim = 3, 24
    layer = torch.nn.Linear(dim, dim)
    factors, offsets = normal(2, dim), normal(2, dim)
    limits = 448 * formats.value_scales(formats.value_reach(layer, heads), factors, offsets)
    row = layer.weight.view(heads, -1, dim)[1, 2]
    # What this row takes furthest, among what a norm can give.
    for x in (normal(50, dim), (row * factors[0]).sign()[None], row[None]):
        for factor, offset in zip(factors, offsets, strict=True):
            h = torch.nn.functional.layer_norm(x, (dim,)) * factor + offset
            values = layer(h).detach().view(len(x), heads, -1)
            assert bool((values.abs().amax((0, 2)) <= limits).all())
    # No more than the number of features apart from what can be reached.
    assert bool((limits <= dim * values.abs().amax()).all())


def test_rounding_is_to_the_nearest_and_saturates() -> None:
    one = torch.ones(1)
    x = torch.tensor([[1.0625, 1.1875, 0.0, -1e6, 1e6, 2.0**-9]])
    wanted = [1.0, 1.25, 0.0, -448.0, 448.0, 2.0**-9]
    assert formats.quantise(x, one).float().flatten().tolist() == wanted


def test_rows_of_keys_are_an_exchange_within_sixteen() -> None:
    rows = formats.key_rows(70)
    assert rows[:64].sort().values.tolist() == list(range(64))
    assert (rows // 16 == torch.arange(70) // 16).all()
    # A thread of a matrix product holds columns 8b + 2t + e and multiplies keys 4t + 2b + e.
    for t in range(4):
        for b in range(2):
            for e in range(2):
                assert int(rows[16 + 4 * t + 2 * b + e]) == 16 + 8 * b + 2 * t + e


def test_8_bits_are_near_the_exact_result(normal: Draw) -> None:
    k8, v8, k_scales, v_scales, k, v = arena_fp8(normal, 200, 2, 64)
    q = normal(1, 40, 2, 64)
    wanted = exact(q.double(), k[None].double(), v[None].double(), 0.125)
    got = formats.dual_attention_fp8(q, k8, v8, 200, 0.125, k_scales, v_scales)
    assert close(got, wanted, 8e-2)
    keys = formats.quantise(k, k_scales)[None]
    assert close(formats.dual_attention_qk8(q, keys, v[None], 0.125, k_scales), wanted, 6e-2)


@pytest.mark.parametrize(
    "queries,keys,heads,width", [(1, 1, 1, 32), (33, 95, 2, 64), (130, 70, 1, 128)], ids=str
)
def test_keys_in_8_bits(
    twin: Any, normal: Draw, queries: int, keys: int, heads: int, width: int
) -> None:
    limit = tolerance_of(twin, TOLERANCE_OF_KEYS)
    q = normal(1, queries, heads, width, dtype=torch.bfloat16)
    k, v = (normal(1, keys, heads, width, dtype=torch.bfloat16) for _ in range(2))
    scales = formats.head_scales(k)
    k8 = formats.quantise(k, scales)
    given = [x.to(twin.device) for x in (q, k8, v)]
    got = twin.load("dual_attention_fp8").dual_attention_qk8(*given, 0.1, scales.to(twin.device))
    wanted = exact(
        formats.rounded_queries(q).double(), k8.double() * scales[:, None], v.double(), 0.1
    )
    assert got.dtype == q.dtype
    assert close(got, wanted, limit)


@pytest.mark.parametrize(
    "queries,keys,heads,width",
    [(1, 1, 1, 32), (5, 8, 2, 32), (33, 95, 2, 64), (130, 136, 1, 128)],
    ids=str,
)
def test_all_in_8_bits(
    twin: Any, normal: Draw, queries: int, keys: int, heads: int, width: int
) -> None:
    limit = tolerance_of(twin)
    q = normal(1, queries, heads, width, dtype=torch.bfloat16)
    k8, v8, k_scales, v_scales, *_ = arena_fp8(normal, keys, heads, width)
    there = [x.to(twin.device) for x in (q, k8, v8, k_scales, v_scales)]
    attend = twin.load("dual_attention_fp8").dual_attention_fp8
    got = attend(*there[:3], keys, 0.1, *there[3:])
    wide_k = k8[:, formats.key_rows(keys)].double() * k_scales[:, None]
    wide_v = v8[:, :, :keys].permute(2, 0, 1)[None].double() * v_scales[:, None]
    assert close(got, exact(formats.rounded_queries(q).double(), wide_k, wide_v, 0.1), limit)


@pytest.mark.parametrize(
    "queries,keys,heads,width",
    [(1, 1, 1, 32), (5, 8, 2, 32), (33, 95, 2, 64), (130, 136, 1, 128)],
    ids=str,
)
def test_the_result_stays_in_8_bits(
    twin: Any, normal: Draw, queries: int, keys: int, heads: int, width: int
) -> None:
    # One more rounding to e4m3; where the interpreter truncates both, their errors add up.
    limit = tolerance_of(twin, {"reference": 5e-2, "cpu": 1.6e-1, "cuda": 5e-2})
    q = normal(1, queries, heads, width, dtype=torch.bfloat16)
    k8, v8, k_scales, v_scales, *_ = arena_fp8(normal, keys, heads, width)
    v_scales *= torch.arange(1, heads + 1)
    shares = v_scales / v_scales.amax()
    there = [x.to(twin.device) for x in (q, k8, v8, k_scales, shares)]
    attend = twin.load("dual_attention_fp8").dual_attention_fp8_out
    got = attend(*there[:3], keys, 0.1, *there[3:])
    assert got.dtype == torch.float8_e4m3fn
    wide_k = k8[:, formats.key_rows(keys)].double() * k_scales[:, None]
    wide_v = v8[:, :, :keys].permute(2, 0, 1)[None].double() * v_scales[:, None]
    wanted = exact(formats.rounded_queries(q).double(), wide_k, wide_v, 0.1)
    assert close(got.cpu().double() * v_scales.amax(), wanted, limit)


def test_a_result_of_the_largest_values_is_not_lost() -> None:
    """Rounded weights may sum up to more than their sum; the result saturates, it is not NaN."""
    q, k = torch.zeros(1, 3, 1, 32), torch.zeros(40, 1, 32)
    v = torch.full((40, 1, 32), 448.0)
    k8, v8 = formats.arena_of(*(x.to(torch.float8_e4m3fn) for x in (k, v)))
    one = torch.ones(1)
    out = formats.dual_attention_fp8_out(q, k8, v8, 40, 0.1, one, one)
    assert bool((out.float() == 448).all())


def test_scales_of_logits_must_be_positive(triton_device: torch.device) -> None:
    from shotstream_rt.kernels.gpu.dual_attention_fp8 import dual_attention_qk8

    x = torch.zeros(1, 3, 1, 32, device=triton_device)
    with pytest.raises(ValueError, match="scale: got 0"):
        dual_attention_qk8(x, x.to(torch.float8_e4m3fn), x, 0.0, torch.ones(1))
