"""Compile cases of the arena's attention that are not portable: for sm_90, and in 8 bits.

Called by ``compile_cases``; shapes are those of the 1.3B student.
"""

from __future__ import annotations

from typing import Any

from ..gpu import (
    dual_attention_fp8,
    hopper_attention,
    hopper_launch,
    kv_append_fp8,
    merge_splits,
    qkv_append,
)
from ..gpu.hopper_launch import TILE, WIDTH, HopperLaunch, block_layout
from ..tuning import FP8_CAPABILITY, block_of, row_warps
from .case import FRAME_TOKENS, HEAD_DIM, HEADS, KEYS, QUERIES, Argument, CompileCase

_HOPPER = 90
_TOKEN = HEADS * HEAD_DIM
_REGISTERS = 65536 // (12 * 32) // 8 * 8
"""Registers of a thread at the start, before the twelve warps redistribute them."""

_LAUNCHES = {
    "dual_attention_hopper": (hopper_launch.BFLOAT16, ("HGMMA",), 0),
    "dual_attention_hopper_ping_pong": (HopperLaunch(ping_pong=True), ("HGMMA",), 0),
    "dual_attention_qk8_hopper": (hopper_launch.QK8, ("QGMMA", "HGMMA"), 0),
    "history_attention_hopper": (hopper_launch.SPANS, ("HGMMA",), 0),
    # Sums that are moved out of the matrix unit are scaled by two exponentials of their own.
    "dual_attention_fp8_hopper": (hopper_launch.FP8, ("QGMMA",), 2),
    "dual_attention_fp8_out_hopper": (hopper_launch.FP8, ("QGMMA",), 2),
}

_MATRIX_INSTRUCTION = {89: "QMMA", 90: "QGMMA", 100: "UTCQMMA", 120: "QMMA"}
"""What a product of 8-bit operands becomes."""


def attention_cases(capability: int) -> list[CompileCase]:
    """Return these cases for one architecture."""
    cases = [_merge_case("merge_splits", "*bf16")]
    if capability >= FP8_CAPABILITY:
        cases += [_append_case(), _keys_case(), _merge_case("merge_splits_out", "*fp8e4nv")]
        cases += [_portable_case(name, capability) for name in ("qk8", "fp8", "fp8_out")]
    if capability == _HOPPER:
        cases += [_hopper_case(name, *row) for name, row in _LAUNCHES.items()]
    return cases


def _hopper_case(
    name: str, launch: HopperLaunch, products: tuple[str, ...], late: int
) -> CompileCase:
    k_type, v_type = (
        ("fp8e4nv", 8) if small else ("bf16", 16) for small in (launch.qk8, launch.pv8)
    )
    k_block = [launch.block_k, WIDTH]
    arguments: dict[str, Argument] = {
        "Q": _descriptor("bf16", 16, [TILE // 2, WIDTH]),
        "K": _descriptor(*k_type, k_block),
        "V": _descriptor(*v_type, k_block[::-1] if launch.pv8 else k_block),
        "OUT": "*fp8e4nv" if "_out_" in name else "*bf16",
        **dict.fromkeys(("PARTS", "LOG_SUMS", "K_SCALES", "V_SCALES"), "*fp32"),
        "TABLE": "*i32" if launch.spans else "*fp32",
        "queries": QUERIES,
        "keys": KEYS,
        "whole_tiles": 396,
        "splits": 5,
        "scale": 0.5,
        "out_token": _TOKEN,
    }
    return CompileCase(
        name=name,
        kernel=hopper_attention.attention_kernel,
        arguments=arguments,
        constants=launch.constants,
        options={"num_warps": 4},
        registers=_REGISTERS,
        instructions=(*products, "UTMALDG", "USETMAXREG"),
        late_exponentials=late,
    )


def _descriptor(element: str, bits: int, block: list[int]) -> str:
    return f"tensordesc<{element}{block},{block_layout(bits)!r}>"


def _merge_case(name: str, result: str) -> CompileCase:
    return CompileCase(
        name=name,
        kernel=merge_splits._merge_splits_kernel,
        arguments={
            "PARTS": "*fp32", "LOG_SUMS": "*fp32", "OUT": result, "first_tile": 396,
            "queries": QUERIES, "splits": 5, "out_token": _TOKEN,
        },
        constants={"TILE": TILE, "WIDTH": WIDTH, "ROWS": merge_splits.ROWS},
        options={"num_warps": 4},
        registers=64,
        instructions=("LDG.128",),
    )  # fmt: skip


def _append_case() -> CompileCase:
    return CompileCase(
        name="kv_append_fp8",
        kernel=kv_append_fp8._kv_append_fp8_kernel,
        arguments={
            "K": "*bf16", "V": "*bf16", "K_SCALES": "*fp32", "V_SCALES": "*fp32",
            "ARENA_K": "*fp8e4nv", "ARENA_V": "*fp8e4nv", "SLOTS": "*i32",
            "frame_tokens": FRAME_TOKENS, "k_stride": _TOKEN, "v_stride": 3 * _TOKEN,
            "row_stride": _TOKEN, "feature_stride": -(-KEYS // 16) * 16,
        },
        constants={"WIDTH": HEAD_DIM, "BLOCK": HEAD_DIM, "TOKENS": kv_append_fp8.TOKENS},
        options={"num_warps": 4},
        registers=128,
        instructions=("LDG.128",),
    )  # fmt: skip


def _keys_case() -> CompileCase:
    return CompileCase(
        name="qkv_append_qk8",
        kernel=qkv_append._qkv_append_kernel,
        arguments={
            **dict.fromkeys(("QKV", "WEIGHT_Q", "WEIGHT_K", "OUT", "ARENA_V"), "*bf16"),
            "ARENA_K": "*fp8e4nv", "TABLE": "*fp32", "K_SCALES": "*fp32", "SLOTS": "*i32",
            "frame_tokens": FRAME_TOKENS, "qkv_stride": 3 * _TOKEN, "arena_stride": _TOKEN,
            "eps": 1e-6,
        },
        constants={
            "WIDTH": _TOKEN, "BLOCK": block_of(_TOKEN), "HEAD_DIM": HEAD_DIM, "ROTATE_KEY": True,
            "QK8": True, "STORE_VALUES": True,
        },
        options={"num_warps": row_warps(_TOKEN)},
        registers=64,
        # Of eight numbers of a thread, keys are 8 bytes.
        instructions=("LDG.128", "STG.128", "STG.64"),
    )  # fmt: skip


def _portable_case(precision: str, capability: int) -> CompileCase:
    pv8 = precision != "qk8"
    constants: dict[str, Any] = dual_attention_fp8._options(HEAD_DIM, pv8)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    arguments: dict[str, Argument] = {
        "Q": "*bf16", "K": "*fp8e4nv", "V": "*fp8e4nv" if pv8 else "*bf16",
        "K_SCALES": "*fp32", "V_SCALES": "*fp32",
        "OUT": "*fp8e4nv" if precision == "fp8_out" else "*bf16",
        "queries": QUERIES, "keys": KEYS, "scale": 0.5,
    }  # fmt: skip
    for tensor in ("q", "k", "v", "out"):
        arguments[f"{tensor}_batch"] = _TOKEN * QUERIES
        arguments[f"{tensor}_token"] = _TOKEN
        arguments[f"{tensor}_head"] = HEAD_DIM
    arguments["v_feature"] = 1
    if pv8:
        capacity = -(-KEYS // 16) * 16
        arguments |= {"v_token": 1, "v_feature": capacity, "v_head": HEAD_DIM * capacity}
    return CompileCase(
        name=f"dual_attention_{precision}",
        kernel=dual_attention_fp8._attention_fp8_kernel,
        arguments=arguments,
        constants=constants,
        options=options,
        instructions=(_MATRIX_INSTRUCTION[capability],),
    )
