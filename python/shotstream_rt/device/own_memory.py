"""Memory that goes back to the system when it is freed.

The C library has one heap for what stays and for what comes and goes with every chunk. What stays
for some shots leaves gaps there that often stay empty: tensors ask for aligned memory, and glibc
before 2.38 does not put an aligned block into a gap of its size.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNED_BYTES = 64
"""As torch aligns tensors."""


def own_memory(
    shape: Sequence[int], *, dtype: torch.dtype, device: torch.device, resident: bool = True
) -> Tensor:
    """Return a tensor to be written to; on a host with Linux, in pages of its own.

    Args:
        shape: of at least one element.
        dtype: of the elements.
        device: where they are.
        resident: have these pages there at once, not each when it is written to.

    Raises:
        MemoryError: the system does not give so much.
    """
    if device.type != "cpu" or not hasattr(mmap, "MAP_POPULATE"):
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (mmap.MAP_POPULATE if resident else 0)
    size = math.prod(shape) * dtype.itemsize
    try:
        pages = mmap.mmap(-1, size, flags=flags)
    except OSError as error:
        raise MemoryError(f"cannot map {size} bytes: {error}") from error
    return torch.frombuffer(pages, dtype=dtype).view(tuple(shape))


def bytes_together(tensors: Sequence[Tensor]) -> int:
    """Return how many bytes ``copies_in`` takes for some tensors."""
    return sum(map(_aligned_bytes, tensors))


def copies_in(memory: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return contiguous copies of some tensors, which lie in a piece of memory.

    Args:
        memory: uint8, one-dimensional, at least ``bytes_together(tensors)``.
        tensors: of any type and shape.
    """
    sizes = [_aligned_bytes(tensor) for tensor in tensors]
    parts = memory[: sum(sizes)].split(sizes)
    return [
        part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def _aligned_bytes(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
