"""Device code: the weights of a block of keys on sm_90, from logits to the product with values.

A consumer of ``hopper_attention`` makes them while the matrix unit still multiplies those before.
"""

from __future__ import annotations

from typing import no_type_check

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma

CONSUMER_ROWS = tl.constexpr(64)
"""Queries of a consumer: the height of the matrix instruction."""


@gluon.jit
@no_type_check
def weigh(logits, peak, total, row_scale, HEADROOM: gl.constexpr):
    """One step of the online softmax: weights, new maximum, new sum, factor of older weights.

    Args:
        logits: float32 ``[64, BLOCK_K]``, of one block of keys.
        peak: float32 ``[64]``, largest logit of each row so far, scaled.
        total: float32 ``[64]``, sum of each row's weights so far.
        row_scale: float32 ``[64]``, factor on a row's logits, to base 2.
        HEADROOM: added to the exponents of weights that are rounded to 8 bits.
    """
    new_peak = gl.maximum(peak, gl.max(logits, 1) * row_scale)
    weights = gl.exp2(logits * row_scale[:, None] - (new_peak - HEADROOM)[:, None])
    shrink = gl.exp2(peak - new_peak)
    return weights, new_peak, total * shrink + gl.sum(weights, 1), shrink


@gluon.jit
@no_type_check
def pack(weights, OPERAND: gl.constexpr, BLOCK_K: gl.constexpr, PV8: gl.constexpr):
    """Round weights for the second product, in the registers that they are in.

    Args:
        weights: float32 ``[64, BLOCK_K]``.
        OPERAND: layout in which the matrix unit reads its left operand from registers.
        BLOCK_K: keys of a block.
        PV8: values, so also weights, are in 8 bits.

    Returns:
        bfloat16 ``[64, BLOCK_K]``; with ``PV8`` int32 ``[64, BLOCK_K / 4]`` of four weights each,
        for 8-bit values carried through a loop would take a register each.
    """
    if PV8:
        # Column 8b + 2t + e of a group of sixteen is key 4t + 2b + e.
        named = weights.reshape([CONSUMER_ROWS, BLOCK_K // 16, 2, 4, 2]).permute([0, 1, 3, 2, 4])
        even, odd = gl.split(named.reshape([CONSUMER_ROWS, BLOCK_K // 4, 2, 2]))
        first, third = gl.split(even)
        second, fourth = gl.split(odd)
        packed = gl.inline_asm_elementwise(
            "{.reg .b16 lo, hi; cvt.rn.satfinite.e4m3x2.f32 lo, $2, $1; "
            "cvt.rn.satfinite.e4m3x2.f32 hi, $4, $3; mov.b32 $0, {lo, hi};}",
            "=r,f,f,f,f",
            [first, second, third, fourth],
            dtype=gl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        packed = gl.convert_layout(weights.to(gl.bfloat16), OPERAND, assert_trivial=True)
    return packed


@gluon.jit
@no_type_check
def issue_values(
    packed, values, acc, OPERAND: gl.constexpr, BLOCK_K: gl.constexpr, PV8: gl.constexpr
):
    """Issue ``acc += weights values`` and return without waiting for it.

    Args:
        packed: weights as ``pack`` returns them.
        values: of the block, in shared memory.
        acc: float32 ``[64, D]``, the sums so far.
        OPERAND: as for ``pack``, and so are the next two.
        BLOCK_K: keys of a block.
        PV8: values are in 8 bits.
    """
    if PV8:
        # These steps only rename the bytes of a register; no machine code is made of them.
        even = gl.join(packed.to(gl.int8), (packed >> 16).to(gl.int8))
        odd = gl.join((packed >> 8).to(gl.int8), (packed >> 24).to(gl.int8))
        named = gl.join(even, odd).reshape([CONSUMER_ROWS, BLOCK_K])
        operand = gl.convert_layout(named, OPERAND, assert_trivial=True)
        operand = operand.to(gl.float8e4nv, bitcast=True)
        issued = warpgroup_mma(operand, values.permute((1, 0)), acc, is_async=True)
    else:
        issued = warpgroup_mma(packed, values, acc, is_async=True)
    return issued
