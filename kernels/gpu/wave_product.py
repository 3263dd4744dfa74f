"""The product of ``wave_linear``: tiles of its last wave are cut along the inner axis.

    y[t, n] = sum_k x[t, k] W[n, k] + b[n]

x ``[T, K]`` with dense rows, W ``[N, K]``, y ``[T, N]``. As many programs as there are
multiprocessors, each with its whole tiles; of the tiles that are left, each is begun by one program
and ended by the next (``wave_split``). The beginning is the first thing that a program does and the
end the last, with its whole tiles between them, so nobody waits. The program that ends a tile takes
the sums of the one that began it as the start of its own: every sum is added in the order of an
uncut tile, so a result does not depend on where tiles are cut, nor on the number of
multiprocessors. Float32 sums, one rounding.

2 T N K FLOP; bound by the matrix units. Beside the product, each cut tile writes and reads its sums
once, 8 bytes an element, through the second-level cache.

Source: Osama et al., "Stream-K: Work-centric Parallel Decomposition for Dense Matrix-Matrix
Multiplication on the GPU", 2023, from which this differs by the order of sums.
"""

from __future__ import annotations

from functools import cache
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import run_kernel
from ..tuning import ProductLaunch, capability_of, product_launch
from .wave_split import WaveSplit, plan_wave_split


@triton.jit
@no_type_check
def _load_blocks(
    X, W, row, column, inner, rows, columns, width, x_stride,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Return blocks ``[T, K]`` of x and ``[N, K]`` of W; zeros past the end of an axis."""
    if TMA:
        x, w = X.load([row, inner]), W.load([column, inner])
    else:
        token, place = row + tl.arange(0, BLOCK_T), inner + tl.arange(0, BLOCK_K)
        output = column + tl.arange(0, BLOCK_N)
        inside = place[None, :] < width
        x = tl.load(
            X + token.to(tl.int64)[:, None] * x_stride + place[None, :],
            mask=(token[:, None] < rows) & inside, other=0.0,
        )  # fmt: skip
        w = tl.load(
            W + output.to(tl.int64)[:, None] * width + place[None, :],
            mask=(output[:, None] < columns) & inside, other=0.0,
        )  # fmt: skip
    return x, w


@triton.jit
@no_type_check
def _add_products(
    acc, X, W, row, column, first, last, rows, columns, width, x_stride,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, TMA: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the products of the blocks from ``first`` to ``last`` along the inner axis."""
    for block in tl.range(first, last, num_stages=STAGES):
        x, w = _load_blocks(
            X, W, row, column, block * BLOCK_K, rows, columns, width, x_stride,
            BLOCK_T, BLOCK_N, BLOCK_K, TMA,
        )  # fmt: skip
        if WIDE:
            x, w = x.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(x, w.T, acc, input_precision=PRECISION)
    return acc


@triton.jit
@no_type_check
def _bias_rows(BIAS, column, columns, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return what a tile's sums start from; a bias added at the end would take registers."""
    output = column + tl.arange(0, BLOCK_N)
    bias = tl.load(BIAS + output, mask=output < columns, other=0.0).to(tl.float32)
    return tl.zeros([BLOCK_T, BLOCK_N], tl.float32) + bias[None, :]


@triton.jit
@no_type_check
def _store_tile(acc, OUT, row, column, rows, columns, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr):
    token, output = tl.arange(0, BLOCK_T)[:, None], tl.arange(0, BLOCK_N)[None, :]
    tl.store(
        OUT + row.to(tl.int64) * columns + column + (token * columns + output),
        acc.to(OUT.dtype.element_ty),
        mask=(token < rows - row) & (output < columns - column),
    )


@triton.jit(do_not_specialize=["rows", "tiles", "waves", "group"])
@no_type_check
def _wave_product_kernel(
    X, W, BIAS, OUT, SUMS, READY, rows, columns, width, x_stride, tiles, waves, group,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, TMA: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    column_tiles, blocks = tl.cdiv(columns, BLOCK_N), tl.cdiv(width, BLOCK_K)
    member, whole = program % group, waves * programs
    # Of the tiles that are cut, this program begins one and ends the one before; the first of a
    # group ends none, the last begins none. In groups of one, all tiles are whole.
    begun = program // group * (group - 1) + member
    place = tl.arange(0, BLOCK_T)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]

    tile = whole + begun
    if (member < group - 1) & (tile < tiles):
        row, column = tile // column_tiles * BLOCK_T, tile % column_tiles * BLOCK_N
        acc = _add_products(
            _bias_rows(BIAS, column, columns, BLOCK_T, BLOCK_N), X, W, row, column,
            0, blocks * (group - 1 - member) // group, rows, columns, width, x_stride,
            BLOCK_T, BLOCK_N, BLOCK_K, STAGES, TMA, WIDE, PRECISION,
        )  # fmt: skip
        tl.store(SUMS + begun.to(tl.int64) * (BLOCK_T * BLOCK_N) + place, acc)
        # All threads have stored before one of them says so.
        tl.debug_barrier()
        tl.atomic_xchg(READY + begun, 1, sem="release")
    for wave in range(0, waves):
        tile = wave * programs + program
        if tile < tiles:
            row, column = tile // column_tiles * BLOCK_T, tile % column_tiles * BLOCK_N
            acc = _add_products(
                _bias_rows(BIAS, column, columns, BLOCK_T, BLOCK_N), X, W, row, column, 0, blocks,
                rows, columns, width, x_stride,
                BLOCK_T, BLOCK_N, BLOCK_K, STAGES, TMA, WIDE, PRECISION,
            )  # fmt: skip
            _store_tile(acc, OUT, row, column, rows, columns, BLOCK_T, BLOCK_N)
    tile = whole + begun - 1
    if (member > 0) & (tile < tiles):
        row, column = tile // column_tiles * BLOCK_T, tile % column_tiles * BLOCK_N
        while tl.atomic_cas(READY + begun - 1, 1, 1, sem="acquire") != 1:
            pass
        sums = SUMS + (begun - 1).to(tl.int64) * (BLOCK_T * BLOCK_N)
        acc = _add_products(
            tl.load(sums + place, cache_modifier=".cg"), X, W, row, column,
            blocks * (group - member) // group, blocks, rows, columns, width, x_stride,
            BLOCK_T, BLOCK_N, BLOCK_K, STAGES, TMA, WIDE, PRECISION,
        )  # fmt: skip
        _store_tile(acc, OUT, row, column, rows, columns, BLOCK_T, BLOCK_N)


def wave_split_of(x: Tensor, weight: Tensor) -> tuple[WaveSplit, int]:
    """Plan a product: which tiles are cut on the device of ``x``.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``.

    Returns:
        The plan, and the steps along a tile's inner axis.
    """
    launch = product_launch(capability_of(x), x.element_size())
    columns, width = weight.shape
    tiles = triton.cdiv(x.shape[:-1].numel(), launch.block_t) * triton.cdiv(columns, launch.block_n)
    inner_blocks = triton.cdiv(width, launch.block_k)
    return plan_wave_split(tiles, inner_blocks, _multiprocessors(x.device)), inner_blocks


def launch_product(x: Tensor, weight: Tensor, bias: Tensor, split: WaveSplit) -> Tensor:
    """Multiply by a plan; all plans give the same numbers.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``, dense.
        bias: ``[out]``.
        split: which tiles are cut; its programs must be able to run all at once.
    """
    flat = x.flatten(0, -2)
    flat = flat if flat.stride(-1) == 1 else flat.contiguous()
    weight = weight.contiguous()
    launch = product_launch(capability_of(x), x.element_size())
    (rows, width), columns = flat.shape, weight.shape[0]
    out = torch.empty((*x.shape[:-1], columns), dtype=x.dtype, device=x.device)
    sums = torch.empty(max(1, split.cut), launch.block_t, launch.block_n, device=x.device)
    ready = torch.zeros(max(1, split.cut), dtype=torch.int32, device=x.device)
    tma = launch.tma and _fits_descriptors(flat, weight)
    run_kernel(
        _wave_product_kernel, (split.programs,),
        *_operands(flat, weight, launch, tma), bias, out, sums, ready,
        rows, columns, width, flat.stride(0), split.tiles, split.waves, split.group,
        **_constants(launch, x.dtype), TMA=tma,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return out


def _constants(launch: ProductLaunch, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "BLOCK_T": launch.block_t,
        "BLOCK_N": launch.block_n,
        "BLOCK_K": launch.block_k,
        "STAGES": launch.num_stages,
        # The interpreter multiplies bfloat16 bit patterns; float32 holds the same numbers.
        "WIDE": not isinstance(_wave_product_kernel, triton.runtime.JITFunction),
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
    }


def _operands(x: Tensor, weight: Tensor, launch: ProductLaunch, tma: bool) -> tuple[Any, Any]:
    if not tma:
        return x, weight
    from triton.tools.tensor_descriptor import TensorDescriptor

    return tuple(
        TensorDescriptor(rows, list(rows.shape), list(rows.stride()), [block, launch.block_k])
        for rows, block in ((x, launch.block_t), (weight, launch.block_n))
    )


def _fits_descriptors(*tensors: Tensor) -> bool:
    """Whether the copy engine can read rows of each."""
    return all(x.data_ptr() % 16 == 0 and x.stride(0) * x.element_size() % 16 == 0 for x in tensors)


@cache
def _multiprocessors(device: torch.device) -> int:
    """Of a device; of the host, where kernels are interpreted, enough for tiles to be cut."""
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
