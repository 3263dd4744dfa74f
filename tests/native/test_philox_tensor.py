"""Addressed noise written as tensor operations: the same bits on a CPU and on a GPU.

Every tensor operation rounds once and none is fused with the next, which is all that the
definition in ``shotstream/philox.h`` asks for.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream_rt._native import philox_normal

MASK = 0xFFFFFFFF
LOG = (-0.07902744, 0.12622319, -0.12998183, 0.14214496, -0.16641282, 0.20001045, -0.25000307)
SINE = (-0.5890751, 2.549767, -5.167708, 3.1415927)
COSINE = (0.23132879, -1.3350445, 4.058707, -4.934802, 1.0)


def multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    # 32 x 32 -> 64 bits out of 16-bit halves: int64 has no room for the sign of the full product.
    low, high = constant * (word & 0xFFFF), constant * (word >> 16)
    total = low + ((high & 0xFFFF) << 16)
    return ((high >> 16) + (total >> 32)) & MASK, total & MASK


def words(blocks: int, seed: int, shot: int, chunk: int, step: int, device: str) -> Tensor:
    index = torch.arange(blocks, dtype=torch.int64, device=device)
    c = [index, torch.full_like(index, step << 16), torch.full_like(index, chunk),
         torch.full_like(index, shot)]  # fmt: skip
    key0, key1 = seed & MASK, seed >> 32
    for _ in range(10):
        high0, low0 = multiply(0xD2511F53, c[0])
        high1, low1 = multiply(0xCD9E8D57, c[2])
        c = [high1 ^ c[1] ^ key0, low1, high0 ^ c[3] ^ key1, low0]
        key0, key1 = (key0 + 0x9E3779B9) & MASK, (key1 + 0xBB67AE85) & MASK
    return torch.stack(c, dim=1)


def horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x
        value = value + coefficient
    return value


def log_unit(u: Tensor) -> Tensor:
    shifted = u.view(torch.int32) - 0x3F3504F3
    exponent = (shifted >> 23).float()
    f = ((shifted & 0x7FFFFF) + 0x3F3504F3).view(torch.float32) - 1.0
    p = horner(f, (*LOG, 0.33333330))
    square = f * f
    return exponent * 0.69314718 + (f + (square * f * p - 0.5 * square))


def normals(raw: Tensor) -> Tensor:
    pairs = raw.reshape(-1, 2)
    u = pairs[:, 0].float() * 2.0**-32 + 2.0**-33
    signed = torch.where(pairs[:, 1] >= 2**31, pairs[:, 1] - 2**32, pairs[:, 1])
    v = signed.float() * 2.0**-31
    # Through float64, because torch's own float32 root is not correctly rounded on every CPU.
    radius = torch.sqrt((-2.0 * log_unit(u)).double()).float()
    quarter = torch.round(v * 2.0)
    w = v - quarter * 0.5
    t = w * w
    sine, cosine = horner(t, SINE) * w, horner(t, COSINE)
    turn = quarter.to(torch.int64) & 3
    first = torch.where(turn % 2 == 1, sine, cosine)
    second = torch.where(turn % 2 == 1, cosine, sine)
    first = torch.where((turn == 1) | (turn == 2), -first, first)
    second = torch.where(turn >= 2, -second, second)
    return torch.stack([radius * first, radius * second], dim=1).reshape(-1)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_tensor_operations_give_the_same_bits(device: str) -> None:
    address = (0xFEDCBA9876543210, 3, 5, 1)
    expected = np.empty(1 << 16, dtype=np.float32)
    philox_normal(expected, *address)
    made = normals(words(1 << 14, *address, device=device)).cpu().numpy()
    assert np.array_equal(made, expected)
