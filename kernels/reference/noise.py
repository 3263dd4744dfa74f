"""Addressed noise as tensor operations: the numbers of ``shotstream/philox.h`` on any device.

Every operation rounds once and none is fused with the next, so the bits equal those of the native
core.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_SQRT_HALF_BITS = 0x3F3504F3
_LOG = (-0.07902744, 0.12622319, -0.12998183, 0.14214496, -0.16641282, 0.20001045, -0.25000307,
        0.33333330)  # fmt: skip
_SINE = (-0.5890751, 2.549767, -5.167708, 3.1415927)
_COSINE = (0.23132879, -1.3350445, 4.058707, -4.934802, 1.0)


def noise_address(seed: int, shot: int, chunk: int, device: torch.device | str) -> Tensor:
    """Pack what addresses a chunk's noise: int64 ``[3]``, the seed's 64 bits first.

    Args:
        seed: of the film, in [0, 2**64).
        shot: shot number.
        chunk: chunk within the shot.
        device: where the address is put.
    """
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed
    return torch.tensor([signed, shot, chunk], dtype=torch.int64, device=device)


def addressed_normal(address: Tensor, step: int, count: int) -> Tensor:
    """Standard normals of one use of a chunk's noise.

    Args:
        address: of ``noise_address``.
        step: denoising step whose input the noise enters, 0 to 65535.
        count: how many; element ``e`` is the same whatever the count.

    Returns:
        float32 ``[count]`` on the address's device.
    """
    words = _philox(address, step, -(-count // 4))
    return _box_muller(words)[:count]


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a product; int64 has no room for all 64 bits, so by halves."""
    low, high = constant * (word & 0xFFFF), constant * (word >> 16)
    total = low + ((high & 0xFFFF) << 16)
    return ((high >> 16) + (total >> 32)) & _MASK, total & _MASK


def _philox(address: Tensor, step: int, blocks: int) -> Tensor:
    """Words ``[blocks, 4]`` as int64 in [0, 2**32)."""
    index = torch.arange(blocks, dtype=torch.int64, device=address.device)
    seed, shot, chunk = address.unbind()
    c0, c1 = index & _MASK, (index >> 32) | (step << 16)
    c2, c3 = chunk.expand_as(index), shot.expand_as(index)
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _WEYL[0]) & _MASK, (key1 + _WEYL[1]) & _MASK
    return torch.stack([c0, c1, c2, c3], dim=1)


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x
        value = value + coefficient
    return value


def _log_unit(u: Tensor) -> Tensor:
    shifted = u.view(torch.int32) - _SQRT_HALF_BITS
    exponent = (shifted >> 23).float()
    f = ((shifted & 0x7FFFFF) + _SQRT_HALF_BITS).view(torch.float32) - 1.0
    square = f * f
    return exponent * 0.69314718 + (f + (square * f * _horner(f, _LOG) - 0.5 * square))


def _box_muller(words: Tensor) -> Tensor:
    """Two normals of each pair of words, in element order."""
    pairs = words.reshape(-1, 2)
    u = pairs[:, 0].float() * 2.0**-32 + 2.0**-33
    signed = torch.where(pairs[:, 1] >= 2**31, pairs[:, 1] - 2**32, pairs[:, 1])
    v = signed.float() * 2.0**-31
    # Through float64, because torch's own float32 root is not correctly rounded everywhere.
    radius = torch.sqrt((-2.0 * _log_unit(u)).double()).float()
    quarter = torch.round(v * 2.0)
    w = v - quarter * 0.5
    t = w * w
    sine, cosine = _horner(t, _SINE) * w, _horner(t, _COSINE)
    turn = quarter.to(torch.int64) & 3
    odd = turn % 2 == 1
    first, second = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    first = torch.where((turn == 1) | (turn == 2), -first, first)
    second = torch.where(turn >= 2, -second, second)
    return torch.stack([radius * first, radius * second], dim=1).reshape(-1)
