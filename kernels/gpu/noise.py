"""Addressed noise on the device: Philox4x32-10 and the Box-Muller of ``shotstream/philox.h``.

Element ``e`` of (seed; shot, chunk, step) is a function of its address alone, the same number as on
the host: kernels that use it are compiled without fused multiply-add and take a correctly rounded
root. Bound by integer multiplication, 20 of them for 4 numbers, about as long as storing them.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel

BLOCKS = 256
"""Philox blocks of one program; four numbers each."""

_SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)
_ROUND = tl.constexpr(12582912.0)
"""1.5 * 2^23: adding it to a small float32 rounds to the nearest integer."""


@triton.jit
@no_type_check
def _philox(seed, shot, chunk, step, block):
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32) | (step << 16).to(tl.uint32)
    c2, c3 = tl.zeros_like(c0) + chunk.to(tl.uint32), tl.zeros_like(c0) + shot.to(tl.uint32)
    key0, key1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = key0 + 0x9E3779B9, key1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
@no_type_check
def _log_unit(u):
    shifted = u.to(tl.int32, bitcast=True) - _SQRT_HALF_BITS
    exponent = (shifted >> 23).to(tl.float32)
    f = ((shifted & 0x7FFFFF) + _SQRT_HALF_BITS).to(tl.float32, bitcast=True) - 1.0
    p = f * -0.07902744 + 0.12622319
    p = p * f - 0.12998183
    p = p * f + 0.14214496
    p = p * f - 0.16641282
    p = p * f + 0.20001045
    p = p * f - 0.25000307
    p = p * f + 0.33333330
    square = f * f
    return exponent * 0.69314718 + (f + (square * f * p - 0.5 * square))


@triton.jit
@no_type_check
def _box_muller(a, b):
    u = a.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    radius = tl.sqrt_rn(-2.0 * _log_unit(u))
    v = b.to(tl.int32, bitcast=True).to(tl.float32) * 4.656612873077393e-10
    magic = v * 2.0 + _ROUND
    quarter = magic.to(tl.int32, bitcast=True)
    w = v - (magic - _ROUND) * 0.5
    t = w * w
    sine = t * -0.5890751 + 2.549767
    sine = sine * t - 5.167708
    sine = (sine * t + 3.1415927) * w
    cosine = t * 0.23132879 - 1.3350445
    cosine = cosine * t + 4.058707
    cosine = cosine * t - 4.934802
    cosine = cosine * t + 1.0
    odd = (quarter & 1) != 0
    first, second = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    first = tl.where(((quarter + 1) & 2) != 0, -first, first)
    second = tl.where((quarter & 2) != 0, -second, second)
    return radius * first, radius * second


@triton.jit
@no_type_check
def draw_normal(ADDRESS, step, block):
    """Normals of some Philox blocks, float32 ``[4 * n]`` in element order; device code.

    Args:
        ADDRESS: pointer to the int64 seed, shot and chunk.
        step: denoising step whose input the noise enters.
        block: int64 ``[n]``, numbers of Philox blocks.
    """
    seed, shot, chunk = tl.load(ADDRESS), tl.load(ADDRESS + 1), tl.load(ADDRESS + 2)
    a, b, c, d = _philox(seed, shot, chunk, step, block)
    z0, z1 = _box_muller(a, b)
    z2, z3 = _box_muller(c, d)
    return tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))


@triton.jit(do_not_specialize=["step"])
@no_type_check
def _normal_kernel(ADDRESS, OUT, step, count, BLOCKS: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCKS
    values = draw_normal(ADDRESS, step, first + tl.arange(0, BLOCKS))
    element = first * 4 + tl.arange(0, 4 * BLOCKS)
    tl.store(OUT + element, values, mask=element < count)


def addressed_normal(address: Tensor, step: int, count: int) -> Tensor:
    """Like ``kernels.reference.noise.addressed_normal``, and equal to the last bit.

    Args:
        address: int64 ``[3]``, from ``reference.noise.noise_address``.
        step: denoising step whose input the noise enters, 0 to 65535.
        count: how many numbers.
    """
    out = torch.empty(count, dtype=torch.float32, device=address.device)
    run_kernel(
        _normal_kernel, (triton.cdiv(count, 4 * BLOCKS),),
        address, out, step, count, BLOCKS=BLOCKS, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return out
