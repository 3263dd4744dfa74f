"""Attention by libraries, with the arguments of ``reference.dual_attention``.

Each calls one implementation by name, so that it either runs that one or raises. None takes a
bias: a caption's keys have one, an arena's have none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

MAX_HEAD_DIM = 256
"""Widest head that all of them take; it must also be a multiple of 8."""

FA3_MODULE = "flash_attn_interface"


def cudnn_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Attend through cuDNN, the library's fast path on sm_90 and sm_100.

    Args:
        q: ``[B, Tq, N, D]``.
        k: ``[B, Tk, N, D]``, the valid prefix only.
        v: like ``k``.
        scale: factor on the logits.
        bias: must be ``None``.
    """
    heads_first = _heads_first(q, k, v, bias)
    run = torch.ops.aten._scaled_dot_product_cudnn_attention
    out: Tensor = run(*heads_first, None, False, scale=scale)[0]
    return out.transpose(1, 2)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Attend through the FlashAttention-2 inside torch.

    Args:
        q: ``[B, Tq, N, D]``.
        k: ``[B, Tk, N, D]``, the valid prefix only.
        v: like ``k``.
        scale: factor on the logits.
        bias: must be ``None``.
    """
    heads_first = _heads_first(q, k, v, bias)
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(*heads_first, scale=scale)[0]
    return out.transpose(1, 2)


def fa3_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Attend through an installed FlashAttention-3.

    Args:
        q: ``[B, Tq, N, D]``.
        k: ``[B, Tk, N, D]``, the valid prefix only.
        v: like ``k``.
        scale: factor on the logits.
        bias: must be ``None``.
    """
    _refuse(bias)
    # Some versions return the sums as well.
    out: Any = _fa3()(q, k, v, softmax_scale=scale)
    attended: Tensor = out[0] if isinstance(out, tuple) else out
    return attended


def library_unavailable_reason(
    name: str, device: torch.device, dtype: torch.dtype, head_dim: int
) -> str | None:
    """Return why a library cannot attend here, or ``None``.

    Args:
        name: ``cudnn``, ``flash`` or ``fa3``.
        device: where it would run.
        dtype: of queries, keys and values.
        head_dim: features per head.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"{name} attention needs an NVIDIA GPU that torch can use, not {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"{name} attention takes bfloat16 and float16, not {str(dtype)[6:]}"
    if head_dim % 8 or head_dim > MAX_HEAD_DIM:
        return f"{name} attention takes heads of a multiple of 8 up to {MAX_HEAD_DIM}: {head_dim}"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"{name} attention needs sm_80 or later, not sm_{capability[0]}{capability[1]}"
    if name == "cudnn" and not torch.backends.cudnn.is_available():
        return "this torch was built without cuDNN"
    if name == "fa3":
        if find_spec(FA3_MODULE) is None:
            return f"{FA3_MODULE} (FlashAttention-3) is not installed"
        if capability[0] != 9:
            return f"FlashAttention-3 is for sm_90, not sm_{capability[0]}{capability[1]}"
    return None


def _heads_first(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    _refuse(bias)
    return tuple(x.transpose(1, 2) for x in (q, k, v))


def _refuse(bias: Tensor | None) -> None:
    if bias is not None:
        raise ValueError("bias: got a tensor, wanted None; libraries attend to an arena only")


@cache
def _fa3() -> Callable[..., Any]:
    attend: Callable[..., Any] = import_module(FA3_MODULE).flash_attn_func
    return attend
