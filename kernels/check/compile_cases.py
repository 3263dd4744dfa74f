"""What ``compile_check`` compiles: every Triton kernel at the product's shapes, as data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..gpu import (
    adaln,
    dual_attention,
    fp8_rows,
    frame_pack,
    history_attention,
    kv_append,
    noise,
    qk_norm,
    qkv_append,
    renoise,
    rope_shot,
    wave_product,
)
from ..tuning import FP8_CAPABILITY, attention_launch, block_of, product_launch, row_warps
from .attention_cases import attention_cases
from .case import (
    CAPTION_KEYS,
    CHUNK_FRAMES,
    DIM,
    FFN_DIM,
    FRAME_TOKENS,
    HEAD_DIM,
    HEADS,
    KEYS,
    LATENTS,
    QUERIES,
    Argument,
    CompileCase,
)
from .decoder_cases import decoder_cases

_MATRIX_INSTRUCTION = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
"""What a matrix product becomes; on sm_90 and sm_100 anything else would be half the rate."""


def compile_cases(capability: int) -> list[CompileCase]:
    """Return every case for one architecture."""
    return [
        *_row_cases(),
        *_latent_cases(),
        *decoder_cases(),
        *(_fp8_row_cases() if capability >= FP8_CAPABILITY else ()),
        _attention_case("dual_attention", capability, keys=KEYS, head_dim=HEAD_DIM),
        _attention_case("dual_attention_d64", capability, keys=KEYS, head_dim=64),
        _attention_case("cross_attention", capability, keys=CAPTION_KEYS, head_dim=HEAD_DIM),
        _history_case(capability),
        _product_case(capability),
        *attention_cases(capability),
    ]


def _row_cases() -> list[CompileCase]:
    """Kernels that hold one token's row."""
    block = {"WIDTH": DIM, "BLOCK": block_of(DIM)}
    heads = {**block, "HEAD_DIM": HEAD_DIM}
    options = {"num_warps": row_warps(DIM)}
    residual_strides = {
        f"{row}_{axis}": stride
        for row in ("gate", "factor", "offset")
        for axis, stride in (("batch", 0), ("frame", 6 * DIM))
    }
    residual: dict[str, Argument] = {
        **dict.fromkeys(("X", "Y", "GATE", "FACTOR", "OFFSET", "SUM", "OUT"), "*bf16"),
        "frames": CHUNK_FRAMES,
        "frame_tokens": FRAME_TOKENS,
        **residual_strides,
        "eps": 1e-6,
    }
    arena: dict[str, Argument] = {
        "ARENA_K": "*bf16",
        "ARENA_V": "*bf16",
        "SLOTS": "*i32",
        "frame_tokens": FRAME_TOKENS,
        "arena_stride": DIM,
    }
    projected: dict[str, Argument] = {
        **dict.fromkeys(("QKV", "WEIGHT_Q", "WEIGHT_K", "OUT", "K_SCALES"), "*bf16"),
        "TABLE": "*fp32", "qkv_stride": 3 * DIM, "eps": 1e-6, **arena,
    }  # fmt: skip
    rows: list[tuple[str, Any, dict[str, Argument], dict[str, Any]]] = [
        (
            "layer_norm", adaln._layer_norm_kernel,
            {
                **dict.fromkeys(("X", "FACTOR", "OFFSET", "OUT"), "*bf16"),
                "frames": 1, "frame_tokens": QUERIES,
                **dict.fromkeys(
                    ("factor_batch", "factor_frame", "offset_batch", "offset_frame"), 0
                ),
                "eps": 1e-6,
            },
            block,
        ),
        (
            "gated_residual", adaln._gated_residual_kernel, residual,
            {**block, "HAS_GATE": True, "NORM": False},
        ),
        (
            "gated_residual_norm", adaln._gated_residual_kernel, residual,
            {**block, "HAS_GATE": True, "NORM": True},
        ),
        (
            "residual_norm", adaln._gated_residual_kernel, residual,
            {**block, "HAS_GATE": False, "NORM": True},
        ),
        (
            "rms_norm", qk_norm._rms_norm_kernel,
            {"X": "*bf16", "WEIGHT": "*bf16", "OUT": "*bf16", "row_stride": DIM, "eps": 1e-6},
            block,
        ),
        (
            "rotate", rope_shot._rotate_kernel,
            {
                "X": "*bf16", "TABLE": "*fp32", "OUT": "*bf16",
                "token_stride": DIM, "table_tokens": QUERIES,
            },
            heads,
        ),
        (
            "kv_append", kv_append._kv_append_kernel,
            {"K": "*bf16", "V": "*bf16", "k_stride": DIM, "v_stride": 3 * DIM, **arena},
            block,
        ),
        *(
            (
                f"qkv_append_{mode}", qkv_append._qkv_append_kernel, projected,
                {**heads, "ROTATE_KEY": mode != "plain", "QK8": False,
                 "STORE_VALUES": mode != "keys"},
            )
            for mode in ("rotated", "plain", "keys")
        ),
    ]  # fmt: skip
    return [
        CompileCase(
            name=name,
            kernel=kernel,
            arguments=arguments,
            constants=constants,
            options=options,
            registers=64,
            instructions=("LDG.128", "STG.128"),
        )
        for name, kernel, arguments, constants in rows
    ]


def _fp8_row_cases() -> list[CompileCase]:
    """Kernels that quantise the row they make."""
    frames: dict[str, Argument] = {"frames": CHUNK_FRAMES, "frame_tokens": FRAME_TOKENS}
    rows: dict[str, Argument] = {"VALUES": "*fp8e4nv", "SCALES": "*fp32"}

    def strides(*names: str) -> dict[str, Argument]:
        return {f"{x}_{y}": z for x in names for y, z in (("batch", 0), ("frame", 6 * DIM))}

    cases: list[tuple[str, Any, dict[str, Argument], dict[str, Any], int]] = [
        ("quantise_rows", fp8_rows._quantise_kernel, {"X": "*bf16", **rows}, {"GELU": False}, DIM),
        (
            "gelu_quantise", fp8_rows._quantise_kernel, {"X": "*bf16", **rows}, {"GELU": True},
            FFN_DIM,
        ),
        (
            "layer_norm_quantise", fp8_rows._layer_norm_quantise_kernel,
            {
                **dict.fromkeys(("X", "FACTOR", "OFFSET"), "*bf16"), **rows, **frames,
                **strides("factor", "offset"), "eps": 1e-6,
            },
            {}, DIM,
        ),
        *(
            (
                name, fp8_rows._gated_residual_norm_quantise_kernel,
                {
                    **dict.fromkeys(("X", "Y", "GATE", "FACTOR", "OFFSET", "SUM"), "*bf16"),
                    **rows, **frames, **strides("gate", "factor", "offset"), "eps": 1e-6,
                },
                {"HAS_GATE": has_gate}, DIM,
            )
            for name, has_gate in (
                ("gated_residual_norm_quantise", True), ("residual_norm_quantise", False),
            )
        ),
    ]  # fmt: skip
    made = []
    for name, kernel, arguments, constants, width in cases:
        options = fp8_rows._row_options(width)
        warps = {"num_warps": options.pop("num_warps")}
        case = CompileCase(
            name=name,
            kernel=kernel,
            arguments=arguments,
            constants={**options, **constants},
            options=warps,
            registers=64,
            # Half the bytes of what is read: a thread's store is 8 bytes wide, or 16 in a wide row.
            instructions=("LDG.128", "STG.64" if width == DIM else "STG.128"),
        )
        made.append(case)
    return made


def _latent_cases() -> list[CompileCase]:
    """Kernels that run over a chunk's latents or pixels."""
    exact = {"num_warps": 4, "enable_fp_fusion": False}
    numbers = {"count": LATENTS, "group": LATENTS}
    block = {"BLOCK": renoise.BLOCK}
    rows: list[tuple[str, Any, dict[str, Argument], dict[str, Any], dict[str, Any]]] = [
        (
            "addressed_normal", noise._normal_kernel,
            {"ADDRESS": "*i64", "OUT": "*fp32", "step": 3, "count": LATENTS},
            {"BLOCKS": noise.BLOCKS}, exact,
        ),
        (
            "to_x0", renoise._to_x0_kernel,
            {"X": "*bf16", "FLOW": "*bf16", "SIGMAS": "*fp64", "X0": "*bf16", **numbers},
            block, exact,
        ),
        (
            "renoise", renoise._renoise_kernel,
            {"X0": "*bf16", "NOISE": "*bf16", "SIGMAS": "*fp64", "OUT": "*bf16", **numbers},
            block, exact,
        ),
        (
            "advance", renoise._advance_kernel,
            {
                "X": "*bf16", "FLOW": "*bf16", "NOISE": "*bf16", "SIGMAS": "*fp64",
                "X0": "*bf16", "OUT": "*bf16", "step": 3, "count": LATENTS,
            },
            block, exact,
        ),
        (
            "frame_pack", frame_pack._frame_pack_kernel,
            {
                "PIXELS": "*fp32", "OUT": "*u8", "columns": 832, "frame_bytes": 480 * 832 * 3,
                "frame_stride": 480 * 832 * 3, "plane_stride": 480 * 832, "row_stride": 832,
                "column_stride": 1,
            },
            {"BLOCK": frame_pack.BLOCK}, {"num_warps": 8},
        ),
    ]  # fmt: skip
    return [
        CompileCase(
            name=name,
            kernel=kernel,
            arguments=arguments,
            constants=constants,
            options=options,
            registers=96,
            instructions=("STG.128",),
            exact=options is exact,
        )
        for name, kernel, arguments, constants, options in rows
    ]


def _attention_case(name: str, capability: int, *, keys: int, head_dim: int) -> CompileCase:
    """Attention as the tuning table launches it; a caption has a bias per key."""
    launch = attention_launch(capability, head_dim, keys)
    token = HEADS * head_dim
    constants: dict[str, Any] = {
        "BLOCK_D": head_dim,
        "BLOCK_Q": launch.block_q,
        "BLOCK_K": launch.block_k,
        "STAGES": launch.num_stages,
        "HAS_BIAS": keys == CAPTION_KEYS,
        "WIDE": False,
        "PRECISION": "tf32",
    }
    common: dict[str, Argument] = {
        "BIAS": "*fp32" if keys == CAPTION_KEYS else "*bf16",
        "OUT": "*bf16",
        "queries": QUERIES,
        # A caption's length is arbitrary, a fill level a multiple of a frame's tokens.
        "keys": keys - 1 if keys == CAPTION_KEYS else keys,
        "scale": 0.5,
    }
    arguments: dict[str, Argument]
    on_hopper = launch.tma and _MATRIX_INSTRUCTION[capability] == "HGMMA"
    if launch.tma:
        kernel: Any = dual_attention._attention_tma_kernel
        arguments = {
            "Q_BLOCKS": f"tensordesc<bf16[{launch.block_q}, {head_dim}]>",
            "K_BLOCKS": f"tensordesc<bf16[{launch.block_k}, {head_dim}]>",
            "V_BLOCKS": f"tensordesc<bf16[{launch.block_k}, {head_dim}]>",
            **common,
            "out_token": token,
            "out_head": head_dim,
        }
    else:
        kernel = dual_attention._attention_kernel
        constants["WIDTH"] = head_dim
        arguments = {"Q": "*bf16", "K": "*bf16", "V": "*bf16", **common, "bias_batch": 0}
        for tensor in ("q", "k", "v", "out"):
            arguments[f"{tensor}_batch"] = token * QUERIES
            arguments[f"{tensor}_token"] = token
            arguments[f"{tensor}_head"] = head_dim
    return CompileCase(
        name=name,
        kernel=kernel,
        arguments=arguments,
        constants=constants,
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages},
        instructions=(
            _MATRIX_INSTRUCTION[capability],
            "UTMALDG" if launch.tma else "LDGSTS",
        ),
        # The product has heads of 128. With heads of 64, a product is half as long and covers fewer
        # exponentials.
        exposed_exponentials=(2 if head_dim == HEAD_DIM else 16) if on_hopper else None,
    )


def _history_case(capability: int) -> CompileCase:
    """Attention by spans: the long attention, with a table of spans instead of a number of keys."""
    long = _attention_case("history_attention", capability, keys=KEYS, head_dim=HEAD_DIM)
    tma = long.kernel is dual_attention._attention_tma_kernel
    module = history_attention
    without = ("BIAS", "keys", "bias_batch")
    return replace(
        long,
        kernel=module._history_tma_kernel if tma else module._history_kernel,
        arguments={
            **{name: value for name, value in long.arguments.items() if name not in without},
            "TABLE": "*i32",
        },
        constants={name: v for name, v in long.constants.items() if name != "HAS_BIAS"},
    )


def _product_case(capability: int) -> CompileCase:
    """The product in whole waves: the second one of the feed-forward, on 132 multiprocessors."""
    launch = product_launch(capability)
    factors: dict[str, Argument] = {"X": "*bf16", "W": "*bf16"}
    if launch.tma:
        factors = {
            "X": f"tensordesc<bf16[{launch.block_t}, {launch.block_k}]>",
            "W": f"tensordesc<bf16[{launch.block_n}, {launch.block_k}]>",
        }
    return CompileCase(
        name="wave_linear",
        kernel=wave_product._wave_product_kernel,
        arguments={
            **factors, "BIAS": "*bf16", "OUT": "*bf16", "SUMS": "*fp32", "READY": "*i32",
            "rows": QUERIES, "columns": DIM, "width": FFN_DIM, "x_stride": FFN_DIM,
            "tiles": 222, "waves": 1, "group": 4,
        },
        constants={
            "BLOCK_T": launch.block_t, "BLOCK_N": launch.block_n, "BLOCK_K": launch.block_k,
            "STAGES": launch.num_stages, "TMA": launch.tma, "WIDE": False, "PRECISION": "tf32",
        },
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages},
        instructions=(
            _MATRIX_INSTRUCTION[capability], "UTMALDG" if launch.tma else "LDGSTS", "STG.128",
        ),
    )  # fmt: skip
