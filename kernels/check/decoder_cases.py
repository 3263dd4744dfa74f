"""The compile cases of the decoders: every launch of a 480x832 chunk, by width and position.

Called by ``compile_cases``. Positions are those of ``model/wan_vae/chunk_program.py`` and
``model/tiny/chunk_program.py``: which kernel runs before which convolution.
"""

from __future__ import annotations

from typing import Any

from ..gpu import rms_silu
from .case import Argument, CompileCase

_POSITIONS = {384: 60 * 104, 192: 240 * 416, 96: 480 * 832, 256: 60 * 104, 128: 120 * 208,
              64: 240 * 416}  # fmt: skip
"""Rows times columns by width; those of a decoder's widths are all multiples of 16."""

_BIAS, _RESIDUAL, _PAST, _KEEP, _SILU = "HAS_BIAS", "HAS_RESIDUAL", "HAS_PAST", "KEEP", "SILU"
_NORMS: dict[str, tuple[tuple[int, ...], set[str]]] = {
    "first": ((384, 192, 96), {_BIAS, _PAST, _KEEP, _SILU}),
    "outer": ((384, 192, 96), {_BIAS, _RESIDUAL, _PAST, _KEEP, _SILU}),
    "inner": ((384, 192, 96), {_BIAS, _PAST, _SILU}),
    "attention": ((384,), {_BIAS, _RESIDUAL, _KEEP}),
    "head": ((96,), {_BIAS, _RESIDUAL, _PAST, _SILU}),
}
"""Widths and flags by position: after an enlargement, between blocks, inside one, and so on."""

_SUMS: dict[str, tuple[tuple[int, ...], set[str]]] = {
    "enlarge": ((384, 192), {_BIAS, _RESIDUAL}),
    "relu": ((256, 128, 64), {_BIAS, "RELU"}),
    "memory": ((256, 128, 64), {_BIAS, _RESIDUAL, "RELU"}),
    "last": ((64,), {"RELU"}),
}


def decoder_cases() -> list[CompileCase]:
    """Return every case; the same for all architectures."""
    norms = [
        _case(
            f"rms_silu_{place}_{width}", rms_silu._rms_silu_kernel, width, flags,
            {
                **dict.fromkeys(("H", "GAMMA", "BIAS", "RESIDUAL", "PAST", "OUT"), "*bf16"),
                "frames": 12, "positions": _POSITIONS[width],
                "frame_step": _POSITIONS[width] * width, "root": float(width) ** 0.5,
            },
            (_BIAS, _RESIDUAL, _PAST, _KEEP, _SILU),
        )
        for place, (widths, flags) in _NORMS.items()
        for width in widths
    ]  # fmt: skip
    sums = [
        _case(
            f"add_bias_{place}_{width}", rms_silu._add_bias_kernel, width, flags,
            {
                **dict.fromkeys(("H", "BIAS", "RESIDUAL", "OUT"), "*bf16"),
                "positions": 12 * _POSITIONS[width],
            },
            (_BIAS, _RESIDUAL, "RELU"),
        )
        for place, (widths, flags) in _SUMS.items()
        for width in widths
    ]  # fmt: skip
    return [*norms, *sums]


def _case(
    name: str,
    kernel: Any,
    width: int,
    flags: set[str],
    arguments: dict[str, Argument],
    known: tuple[str, ...],
) -> CompileCase:
    shape = rms_silu._launch_shape(width)
    options = {"num_warps": shape.pop("num_warps")}
    return CompileCase(
        name=name,
        kernel=kernel,
        arguments=arguments,
        constants={**shape, **{flag: flag in flags for flag in known}},
        options=options,
        registers=96,
        instructions=("LDG.128", "STG.128"),
    )
