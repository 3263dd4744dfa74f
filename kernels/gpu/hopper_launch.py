"""How ``hopper_attention`` is launched: rings, registers and key split as data, and one launcher.

``dual_attention_hopper``, ``dual_attention_fp8_hopper`` and ``history_attention_hopper`` say what
they take and call this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..launch import run_kernel
from .key_split import KeySplit, plan_key_split
from .merge_splits import merge_splits

TILE, WIDTH = 128, 128
"""Queries of a program and features of a head, which the kernel is written for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperLaunch:
    """Launch of ``hopper_attention.attention_kernel``.

    Attributes:
        qk8: keys are e4m3, queries are rounded to it.
        pv8: values are e4m3 and transposed; needs ``qk8``.
        block_k: keys of one loop iteration.
        stages: blocks in flight, of keys and of values each.
        ping_pong: the consumers issue their products alternately, so that one multiplies while the
            other computes exponentials; otherwise they run unsynchronised.
        spans: every head reads its own spans of the keys; in bfloat16 only.
        consumer_registers: of a thread that multiplies.
        producer_registers: of a thread that loads.
    """

    qk8: bool = False
    pv8: bool = False
    block_k: int = 128
    stages: int = 2
    ping_pong: bool = False
    spans: bool = False
    consumer_registers: int = 240
    producer_registers: int = 24

    @property
    def constants(self) -> dict[str, Any]:
        """Compile-time constants of the kernel, and warps of a program's first role."""
        return {
            "BLOCK_K": self.block_k,
            "STAGES": self.stages,
            "QK8": self.qk8,
            "PV8": self.pv8,
            "PING_PONG": self.ping_pong,
            "SPANS": self.spans,
            "CONSUMER_REGISTERS": self.consumer_registers,
            "PRODUCER_REGISTERS": self.producer_registers,
        }


BFLOAT16 = HopperLaunch()
QK8 = HopperLaunch(qk8=True)
FP8 = HopperLaunch(qk8=True, pv8=True)
SPANS = HopperLaunch(spans=True)


def check_operand(name: str, x: Tensor) -> None:
    """Refuse what the copy engine cannot read as rows of heads.

    Args:
        name: for the message.
        x: ``[1, T, N, 128]``.

    Raises:
        ValueError: another width or batch, heads of a token apart, or addresses that are not
            multiples of 16 bytes.
    """
    if x.dim() != 4 or x.shape[0] != 1 or x.shape[3] != WIDTH or x.shape[1] < 1:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted (1, tokens, heads, {WIDTH})")
    if x.stride(3) != 1 or (x.stride(2) != WIDTH and x.shape[2] > 1):
        raise ValueError(f"{name}: got strides {x.stride()}, wanted heads of a token side by side")
    if x.data_ptr() % 16 or x.stride(1) * x.element_size() % 16:
        raise ValueError(f"{name}: got an address or a row not divisible by 16 bytes")


def launch_attention(
    launch: HopperLaunch,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: int,
    scale: float,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    split: KeySplit | None = None,
    table: Tensor | None = None,
    result: torch.dtype | None = None,
) -> Tensor:
    """Attend.

    Args:
        launch: how.
        q: bfloat16 ``[1, Tq, N, 128]``.
        k: ``[1, rows, N, 128]``, at least ``keys`` rows; what rows past ``keys`` hold is no matter.
        v: bfloat16 ``[1, keys, N, 128]``; with ``pv8`` e4m3 ``[N, 128, tokens]``.
        keys: keys to attend to.
        scale: positive factor on the logits.
        k_scales: float32 ``[N]``; with ``qk8``.
        v_scales: float32 ``[N]``; with ``pv8``.
        split: of the keys; chosen from shapes and multiprocessors if not given.
        table: int32 ``[N * 7]``, which keys each head reads; with ``spans``.
        result: type of the result; that of ``q`` if not given.

    Returns:
        ``[1, Tq, N, 128]``.

    Raises:
        ValueError: a scale that is not positive, or operands that the kernel cannot read.
    """
    from .hopper_attention import attention_kernel

    if not scale > 0:
        raise ValueError(f"scale: got {scale}, wanted a positive number")
    check_operand("q", q)
    check_operand("k", k)
    queries, heads = q.shape[1:3]
    tiles = -(-queries // TILE) * heads
    if table is not None:
        split = KeySplit(tiles=tiles, whole=tiles, splits=1)
    elif split is None:
        split = plan_key_split(tiles, -(-keys // launch.block_k), _multiprocessors(q.device))
    out = torch.empty(q.shape, dtype=result or q.dtype, device=q.device)
    # A launch without parts still names them.
    room = (split.cut, split.splits, TILE) if split.cut else (1, 1, 1)
    parts = torch.empty((*room, WIDTH), dtype=torch.float32, device=q.device)
    log_sums = torch.empty(room, dtype=torch.float32, device=q.device)
    if launch.pv8:
        values = _describe(v, [heads * WIDTH, keys], v.stride(1), [WIDTH, launch.block_k])
    else:
        check_operand("v", v)
        values = _describe(v, [keys, heads * WIDTH], v.stride(1), [launch.block_k, WIDTH])
    run_kernel(
        attention_kernel, (split.programs,),
        _describe(q, [queries, heads * WIDTH], q.stride(1), [TILE // 2, WIDTH]),
        _describe(k, [k.shape[1], heads * WIDTH], k.stride(1), [launch.block_k, WIDTH]),
        values, out, parts, log_sums,
        log_sums if k_scales is None else k_scales, log_sums if v_scales is None else v_scales,
        log_sums if table is None else table,
        queries, keys, split.whole, split.splits, scale / math.log(2), out.stride(1),
        num_warps=4, **launch.constants,
    )  # fmt: skip
    if split.cut:
        merge_splits(parts, log_sums, out[0], split.whole)
    return out


def _describe(x: Tensor, shape: list[int], row: int, block: list[int]) -> Any:
    """Describe a matrix in device memory, of ``row`` elements from one row to the next."""
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    return TensorDescriptor(x, shape, [row, 1], block, block_layout(8 * x.element_size()))


def block_layout(bits: int) -> Any:
    """How shared memory holds a block of 128 bytes and more to a row: swizzled by 128 bytes."""
    from triton.experimental.gluon.language import NVMMASharedLayout

    return NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=bits, rank=2)


@cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
