"""Tensors of a student that engines are bound to, and their digests."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .segment import OF_BLOCKS, HeadSegment
from .whole_pass import CaptionLayer, ChunkLayer

if TYPE_CHECKING:
    from ..model.bound_student import BoundStudent, TimeTable


def digest_of(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes in row-major order."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def segment_tensors(student: BoundStudent) -> dict[tuple[str, int | None], Tensor]:
    """Return every tensor that segments are bound to, by name and layer.

    Args:
        student: with products of ``product.py``.
    """
    found: dict[tuple[str, int | None], Tensor] = {}
    for layer, block in enumerate(student.blocks):
        for kind in OF_BLOCKS.values():
            found |= {(key, layer): tensor for key, tensor in kind(block).weights().items()}
    head = HeadSegment(student.edges.head, student.blocks[0]).weights()
    return found | {(key, None): tensor for key, tensor in head.items()}


def pass_tensors(student: BoundStudent) -> dict[str, Tensor]:
    """Return every tensor that whole passes are bound to, and what modulation is made of.

    Args:
        student: with products of ``product.py``.
    """
    found = {name: value.detach() for name, value in student.edges.named_parameters()}
    for layer, block in enumerate(student.blocks):
        own = ChunkLayer(block).weights() | CaptionLayer(block).weights()
        found |= {f"blocks.{layer}.{name}": tensor for name, tensor in own.items()}
        found[f"blocks.{layer}.modulation"] = block.modulation.detach()
    head = HeadSegment(student.edges.head, student.blocks[0]).weights()
    return found | {f"head.{name}": tensor for name, tensor in head.items()}


def time_tensors(table: TimeTable) -> dict[str, Tensor]:
    """Return the rows of one time that whole passes are bound to.

    Args:
        table: of the time.
    """
    rows = {
        f"blocks.{layer}.{name}": row
        for layer, own in enumerate(table.layers)
        for name, row in own._asdict().items()
    }
    factor, offset = table.head
    return rows | {"head.factor": factor, "head.offset": offset}
