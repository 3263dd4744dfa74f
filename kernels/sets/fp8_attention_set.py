"""The parts ``fp8-keys``, ``fp8-attention``, ``fp8-out`` of a kernel set: an arena in 8 bits.

``fp8-keys`` keeps keys in e4m3 and multiplies queries with them in it; values and their product
stay in the model's type. ``fp8-attention`` keeps and multiplies both in e4m3. ``fp8-out``, behind
it and ``fp8``, leaves its result in e4m3 too. Attention over captions and everything else stays as
it was.

Scales are fixed when weights are loaded (``reference.dual_attention_fp8``: ``key_scales``,
``value_scales``), so nothing is calibrated and nothing overflows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import Tensor

from ..reference import dual_attention_fp8 as reference_attention
from ..reference import qkv_append as reference_append
from ..reference.fp8_rows import Fp8Rows
from .arena_layout import ScaledPart
from .kernel_set import Attention, KernelSet, QkvAppend


def with_fp8_keys(kernels: KernelSet) -> KernelSet:
    """Keep the arena's keys of a set in 8 bits; see ``with_fp8_attention`` for the forms."""
    append, attend = _forms(kernels)

    def qkv_append(
        qkv: Tensor, weight_q: Tensor, weight_k: Tensor, table: Tensor, arena_k: ScaledPart,
        arena_v: Tensor, slots: Sequence[int], frame_tokens: int, eps: float, rotate_key: bool,
    ) -> Tensor:  # fmt: skip
        stored: Tensor = append.qkv_append_qk8(
            qkv, weight_q, weight_k, table, arena_k.numbers, arena_v, arena_k.scales, slots,
            frame_tokens, eps, rotate_key,
        )  # fmt: skip
        return stored

    def attention(q: Tensor, k: ScaledPart, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
        assert bias is None, "an arena's keys have no bias"
        out: Tensor = attend.dual_attention_qk8(q, k.numbers, v, scale, k.scales)
        return out

    return _replaced(kernels, "fp8-keys", qkv_append, attention, values=False)


def with_fp8_attention(kernels: KernelSet) -> KernelSet:
    """Keep the arena of a set in 8 bits altogether.

    Beside Triton's kernels these are Triton's, or Gluon's where the set attends with those. Beside
    any other set they are the reference twins: the same numbers on any device, slower than without;
    for measuring quality.
    """
    append, attend = _forms(kernels)

    def qkv_append(
        qkv: Tensor, weight_q: Tensor, weight_k: Tensor, table: Tensor, arena_k: ScaledPart,
        arena_v: ScaledPart, slots: Sequence[int], frame_tokens: int, eps: float, rotate_key: bool,
    ) -> Tensor:  # fmt: skip
        stored: Tensor = append.qkv_append_fp8(
            qkv, weight_q, weight_k, table, arena_k.numbers, arena_v.numbers, arena_k.scales,
            arena_v.scales, slots, frame_tokens, eps, rotate_key,
        )  # fmt: skip
        return stored

    def attention(
        q: Tensor, k: ScaledPart, v: ScaledPart, scale: float, bias: Tensor | None
    ) -> Tensor:
        assert bias is None, "an arena's keys have no bias"
        keys = v.numbers.shape[-1]
        out: Tensor = attend.dual_attention_fp8(
            q, k.numbers, v.numbers, keys, scale, k.scales, v.scales
        )
        return out

    return _replaced(kernels, "fp8-attention", qkv_append, attention, values=True)


def with_fp8_out(kernels: KernelSet) -> KernelSet:
    """Leave self-attention's result in 8 bits, as the linear layer behind it reads it.

    A row's largest number is not known to a program of the attention, which sees one head. But a
    result lies between values, and these are within their scale, so the largest scale of a layer's
    heads serves all rows, and no pass over memory has to quantise them.

    Args:
        kernels: a set with ``with_fp8`` and ``with_fp8_attention`` in it.
    """
    assert kernels.arena.values_in_8_bits, "a result in 8 bits is one of values in 8 bits"
    _, attend = _forms(kernels)

    def attention(
        q: Tensor, k: ScaledPart, v: ScaledPart, scale: float, bias: Tensor | None
    ) -> Any:
        assert bias is None, "an arena's keys have no bias"
        assert v.result is not None
        out: Tensor = attend.dual_attention_fp8_out(
            q, k.numbers, v.numbers, v.numbers.shape[-1], scale, k.scales, v.result.shares
        )
        return Fp8Rows(out, v.result.rows[None, : q.shape[1]])

    return replace(
        kernels,
        name=f"{kernels.name}+fp8-out",
        arena=replace(kernels.arena, result_in_8_bits=True),
        attention=attention,
    )


def _forms(kernels: KernelSet) -> tuple[ModuleType, ModuleType]:
    """Modules that append and attend, in the form that fits beside a set."""
    base, *parts = kernels.name.split("+")
    if base != "triton":
        return reference_append, reference_attention
    from ..gpu import dual_attention_fp8, dual_attention_fp8_hopper
    from ..gpu import qkv_append as gpu_append

    return gpu_append, dual_attention_fp8_hopper if "gluon" in parts else dual_attention_fp8


def _replaced(
    kernels: KernelSet, name: str, append: QkvAppend, attend: Attention, *, values: bool
) -> KernelSet:
    arena = replace(kernels.arena, keys_in_8_bits=True, values_in_8_bits=values)
    return replace(
        kernels, name=f"{kernels.name}+{name}", arena=arena, qkv_append=append, attention=attend
    )
