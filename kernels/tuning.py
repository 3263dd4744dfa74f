"""How kernels are launched: block sizes, warps and stages as data, and the few helpers around them.

The tables are what an architecture can hold (registers, shared memory) at the product's shapes;
``compile_check`` checks it without a GPU. Imports torch only; read by the Triton files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLaunch:
    """Launch of ``dual_attention``.

    Attributes:
        block_q: queries of one program.
        block_k: keys of one loop iteration.
        num_warps: warps of one program.
        num_stages: key blocks being loaded at a time.
        tma: load through tensor descriptors where shapes and strides allow it.
    """

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int
    tma: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductLaunch:
    """Launch of ``wave_linear``.

    Attributes:
        block_t: rows of a tile.
        block_n: outputs of a tile.
        block_k: inputs of one loop iteration.
        num_warps: warps of one program.
        num_stages: blocks being loaded at a time.
        tma: load through tensor descriptors where shapes and strides allow it.
    """

    block_t: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    tma: bool = False


LONG_KEYS = 1024
"""Keys from which a call counts as long: the arena is, a caption is not."""

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
"""Compute capabilities with a row in the table below."""

FP8_CAPABILITY = 89
"""First compute capability with e4m3 numbers."""

_FALLBACK = AttentionLaunch(block_q=64, block_k=32, num_warps=8, num_stages=2)
"""For heads wider than the table's, and the same for every chip."""

_WIDE_TYPE = AttentionLaunch(block_q=32, block_k=32, num_warps=4, num_stages=1)
"""For float32, which is for checking: the tables' tiles would not fit."""

_MMA_SHORT = AttentionLaunch(block_q=128, block_k=32, num_warps=8, num_stages=2)
_MMA_LONG = AttentionLaunch(block_q=128, block_k=64, num_warps=8, num_stages=2)
_MMA_LONG_DEEP = AttentionLaunch(block_q=128, block_k=64, num_warps=8, num_stages=3)
_GROUP_SHORT = AttentionLaunch(block_q=64, block_k=64, num_warps=4, num_stages=2)
_GROUP_LONG = AttentionLaunch(block_q=128, block_k=128, num_warps=8, num_stages=2, tma=True)

ATTENTION: dict[int, dict[tuple[int, bool], AttentionLaunch]] = {
    80: {(128, False): _MMA_SHORT, (64, True): _MMA_LONG, (128, True): _MMA_LONG_DEEP},
    86: {(128, False): _MMA_SHORT, (128, True): _MMA_LONG},
    89: {(128, False): _MMA_SHORT, (128, True): _MMA_LONG},
    90: {(128, False): _GROUP_SHORT, (128, True): _GROUP_LONG},
    100: {(128, False): _GROUP_SHORT, (128, True): _GROUP_LONG},
    120: {(128, False): _MMA_SHORT, (128, True): _MMA_LONG},
}
"""By compute capability, then by (largest head dim, long)."""


def attention_launch(
    capability: int, head_dim: int, keys: int, element_bytes: int = 2
) -> AttentionLaunch:
    """Look up the launch of one attention call.

    Args:
        capability: 90 for sm_90; an unknown one takes the row of the nearest below it.
        head_dim: features per head.
        keys: number of keys.
        element_bytes: of queries, keys and values.
    """
    if element_bytes > 2:
        return _WIDE_TYPE
    known = max((arch for arch in ATTENTION if arch <= capability), default=min(ATTENTION))
    rows = ATTENTION[known]
    fitting = [row for row in rows if row[0] >= head_dim and row[1] == (keys >= LONG_KEYS)]
    return rows[min(fitting)] if fitting else _FALLBACK


_MMA_PRODUCT = ProductLaunch(block_t=128, block_n=128, block_k=32, num_warps=8, num_stages=3)
_GROUP_PRODUCT = ProductLaunch(
    block_t=128, block_n=256, block_k=64, num_warps=8, num_stages=4, tma=True
)
_WIDE_PRODUCT = ProductLaunch(block_t=32, block_n=32, block_k=32, num_warps=4, num_stages=1)
"""For float32, which is for checking."""

PRODUCT: dict[int, ProductLaunch] = {
    80: replace(_MMA_PRODUCT, block_k=64),
    86: _MMA_PRODUCT,
    89: _MMA_PRODUCT,
    90: _GROUP_PRODUCT,
    100: _GROUP_PRODUCT,
    120: _MMA_PRODUCT,
}
"""By compute capability."""


def product_launch(capability: int, element_bytes: int = 2) -> ProductLaunch:
    """Look up the launch of a product.

    Args:
        capability: 90 for sm_90; an unknown one takes the row of the nearest below it.
        element_bytes: of both factors.
    """
    if element_bytes > 2:
        return _WIDE_PRODUCT
    return PRODUCT[max((arch for arch in PRODUCT if arch <= capability), default=min(PRODUCT))]


def row_warps(width: int) -> int:
    """Warps of a program that holds one row of ``width`` numbers, eight to a thread at most."""
    return min(8, max(1, block_of(width) // 256))


def block_of(size: int) -> int:
    """Smallest power of two that holds ``size``."""
    return 1 << max(0, size - 1).bit_length()


def capability_of(tensor: Tensor) -> int:
    """Compute capability of a tensor's device; 80 for the interpreter's host tensors."""
    if tensor.device.type != "cuda":
        return min(ARCHITECTURES)
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def on_device(
    numbers: Sequence[int] | float | Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Put a launch's numbers on the device, where a kernel can read them.

    Numbers sent once are kept: a pass that ran before can be captured, for nothing is sent again.

    Args:
        numbers: integers, or a tensor; one that is on the device already is returned as it is.
        dtype: of the result.
        device: of the result.
    """
    if isinstance(numbers, Tensor):
        return numbers.to(device, dtype)
    return _sent(numbers if isinstance(numbers, float) else tuple(numbers), dtype, device)


@cache
def _sent(numbers: tuple[int, ...] | float, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Never freed: captured graphs hold its address. It is a few bytes per plan that ever ran.
    # Made outside inference mode, since an inference tensor cannot be used outside it.
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)


def arena_row_stride(arena_k: Tensor, arena_v: Tensor) -> int:
    """Elements from one token of a token-major arena to the next.

    Args:
        arena_k: ``[tokens, N, D]``.
        arena_v: like ``arena_k``.

    Raises:
        ValueError: heads of a token are apart, or the two differ.
    """
    row, heads, features = arena_k.stride()
    if arena_v.stride() != (row, heads, features) or (heads, features) != (arena_k.shape[2], 1):
        raise ValueError(
            f"arena: got strides {arena_k.stride()} and {arena_v.stride()}, wanted equal ones with "
            f"all heads of a token side by side; allocate it with head_major=False"
        )
    return int(row)
