"""What this CPU multiplies fast; ``products.py`` and ``sets/cpu_set.py`` choose by it.

oneDNN has its say too: its own variables may keep it from instructions that the CPU has.
"""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import Tensor

from ..._native import has_fast_bfloat16_products, has_products

TYPICAL_ROWS = 512
"""Rows for which oneDNN orders a weight."""

NARROW_HEAD = 64
"""Features of a head up to which films in float32 have one form, and so their bits, on all CPUs."""

_ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""oneDNN's own variables: the instructions that it may use. The first one that is set counts."""

_WITHOUT_BFLOAT16 = ("AVX512_CORE", "AVX512_CORE_VNNI")
"""Limits of oneDNN under which it multiplies bfloat16 by other instructions: on a Zen 5 in three
times the time of float32."""


@cache
def has_avx2_alone() -> bool:
    """Tell whether this CPU has AVX2 and nothing wider, and torch uses it.

    A release of torch that cannot tell whether there is AVX-512 answers no.
    """
    has_more = getattr(torch.cpu, "_is_avx512_supported", None)
    used = torch.backends.cpu.get_cpu_capability() == "AVX2"
    return used and has_products() and has_more is not None and not has_more()


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN multiplies packed weights of a type on this CPU.

    It has no bfloat16 product for CPUs without AVX-512 (or below it, if ``ONEDNN_MAX_CPU_ISA`` says
    so); which instructions it wants differs from release to release, so one product is tried.
    """
    one = torch.ones(16, 16, dtype=dtype, device="cpu")
    try:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(one, TYPICAL_ROWS)
        torch.ops.mkldnn._linear_pointwise(one, packed, one[0], "none", [], "")
    except RuntimeError:
        return False
    return True


@cache
def has_matrix_unit() -> bool:
    """Tell whether this CPU multiplies tiles of bfloat16 (AMX), and oneDNN may use it.

    False too where ``ONEDNN_MAX_CPU_ISA`` keeps oneDNN from it.
    """
    limit = _onednn_limit()
    allowed = not limit or "AMX" in limit
    return allowed and _has("_is_amx_tile_supported") and can_pack(torch.bfloat16)


@cache
def has_fast_vectors() -> bool:
    """Tell whether this CPU multiplies vectors of bfloat16 twice as fast as those of float32.

    AMD's with AVX-512 do; on Intel's with those instructions, and no matrix unit, nano's film takes
    longer in bfloat16 than in float32. False too where oneDNN may not use them.
    """
    allowed = _onednn_limit() not in _WITHOUT_BFLOAT16
    return allowed and has_fast_bfloat16_products() and can_pack(torch.bfloat16)


@cache
def has_fast_bfloat16() -> bool:
    """Tell whether bfloat16 is the faster type on this CPU."""
    return has_matrix_unit() or has_fast_vectors()


@cache
def divides_exactly(dtype: torch.dtype) -> bool:
    """Tell whether products of a type keep their bits however their rows are divided.

    By parts of the rows, or by threads. They were compared in float32 where AVX2 is the widest, and
    in bfloat16 on AMD's CPUs; elsewhere this says no.
    """
    if dtype == torch.float32:
        return has_avx2_alone()
    return dtype == torch.bfloat16 and has_fast_vectors() and not has_matrix_unit()


def _onednn_limit() -> str:
    """Return oneDNN's name of the instructions that it is kept to, or "" if it may use all."""
    values = (os.environ.get(name, "").upper() for name in _ONEDNN_LIMITS)
    limit = next(filter(None, values), "")
    return "" if limit in ("DEFAULT", "ALL") else limit


def _has(question: str) -> bool:
    """Ask torch, which has no public name for it; a release that cannot be asked answers no."""
    asked = getattr(torch.cpu, question, None)
    return asked is not None and bool(asked())
