from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.cache import KVArena
from shotstream_rt.backends.cross_attention import fold_padding
from shotstream_rt.kernels.reference.kv_append import kv_append
from shotstream_rt.kernels.sets.kernel_set import KernelSet

Draw = Callable[..., Tensor]
Check = Callable[[str, Tensor, Tensor], None]


def naive_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """One query of one head at a time, keys in a loop."""
    _, queries, heads, width = q.shape
    keys = k.shape[1]
    out = torch.zeros(1, queries, heads, width, dtype=torch.float64)
    added = torch.zeros(keys) if bias is None else bias
    for head in range(heads):
        for row in range(queries):
            products = [
                float(q[0, row, head].double() @ k[0, i, head].double()) for i in range(keys)
            ]
            logits = [p * scale + float(b) for p, b in zip(products, added, strict=True)]
            largest = max(logits)
            weights = [math.exp(logit - largest) for logit in logits]
            for weight, value in zip(weights, v[0, :, head].double(), strict=True):
                out[0, row, head] += weight / sum(weights) * value
    return out


@pytest.mark.parametrize(
    "queries,keys,heads,width",
    [(1, 1, 1, 8), (5, 3, 2, 16), (3, 17, 3, 10), (7, 63, 1, 128)],
    ids=lambda n: str(n),
)
def test_matches_the_formula(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check,
    queries: int, keys: int, heads: int, width: int,
) -> None:  # fmt: skip
    q, k, v = (normal(1, n, heads, width, dtype=dtype) for n in (queries, keys, keys))
    got = kernels.attention(q, k, v, width**-0.5, None)
    assert got.dtype == dtype
    assert_close("dual_attention", got, naive_attention(q, k, v, width**-0.5, None))


@pytest.mark.parametrize("capacity,valid", [(6, 1), (9, 4), (27, 27)], ids=["one", "part", "full"])
def test_slots_past_the_valid_prefix_are_never_read(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check,
    capacity: int, valid: int,
) -> None:  # fmt: skip
    heads, width, frame_tokens = 2, 16, 3
    arena = KVArena(
        capacity * frame_tokens, heads, width, layout=kernels.arena, dtype=dtype,
        device=torch.device("cpu"),
    )  # fmt: skip
    arena.k.fill_(torch.nan)
    arena.v.fill_(torch.nan)
    k, v = (normal(valid * frame_tokens, heads, width, dtype=dtype) for _ in range(2))
    kv_append(arena.k, arena.v, k, v, range(valid), frame_tokens)
    q = normal(1, 5, heads, width, dtype=dtype)
    got = kernels.attention(q, *arena.prefix(valid * frame_tokens), 0.25, None)
    assert_close("dual_attention", got, naive_attention(q, k[None], v[None], 0.25, None))


def test_order_of_keys_does_not_matter(
    kernels: KernelSet, normal: Draw, assert_close: Check
) -> None:
    q, k, v = (normal(1, n, 2, 16) for n in (4, 11, 11))
    turned = torch.roll(torch.arange(11), 4)
    straight = kernels.attention(q, k, v, 0.25, None)
    ring = kernels.attention(q, k[:, turned], v[:, turned], 0.25, None)
    assert_close("dual_attention", ring, straight.double())


def test_one_folded_key_stands_for_all_padding(
    kernels: KernelSet, dtype: torch.dtype, normal: Draw, assert_close: Check
) -> None:
    text_len, length, width = 40, 5, 16
    rows = normal(1, text_len, width, dtype=dtype)
    rows[:, length:] = normal(width, dtype=dtype)
    kept, bias = fold_padding(rows[0], length)
    assert kept.shape[0] == length + 1
    q = normal(1, 7, 1, width, dtype=dtype)
    whole = rows[0, None, :, None]
    folded = kept[None, :, None]
    got = kernels.attention(q, folded, folded, 0.25, bias)
    assert_close("dual_attention", got, naive_attention(q, whole, whole, 0.25, None))


def test_minus_infinity_hides_a_key(kernels: KernelSet, normal: Draw, assert_close: Check) -> None:
    q, k, v = (normal(1, n, 2, 16) for n in (4, 9, 9))
    bias = torch.zeros(9)
    bias[6:] = -torch.inf
    got = kernels.attention(q, k, v, 0.25, bias)
    assert_close("dual_attention", got, naive_attention(q, k[:, :6], v[:, :6], 0.25, None))


def test_strided_keys_give_the_same(kernels: KernelSet, normal: Draw, assert_close: Check) -> None:
    q, wide = normal(1, 6, 2, 16), normal(1, 13, 4, 16)
    k, v = wide.chunk(2, -2)
    got = kernels.attention(q, k, v, 0.25, None)
    assert_close("dual_attention", got, naive_attention(q, k, v, 0.25, None))
