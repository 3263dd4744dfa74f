"""Parts of a bound block as networks, whose parameters are what engines are bound to.

Weights are named like the fields of ``BoundBlock`` and have their form: products ``[in, out]``,
joined where they read the same input. The same networks are traced on the meta device and hold an
opened model's tensors, so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..model.blocks import BoundBlock, Modulation
from ..model.student import Student

if TYPE_CHECKING:
    from ..config import StreamConfig

_LAYERS_OF = {
    "qkv": ("self_attn.q", "self_attn.k", "self_attn.v"),
    "out": ("self_attn.o",),
    "cross_q": ("cross_attn.q",),
    "cross_kv": ("cross_attn.k", "cross_attn.v"),
    "cross_out": ("cross_attn.o",),
    "ffn_up": ("ffn.0",),
    "ffn_down": ("ffn.2",),
}
_FACTOR_OF = {
    "norm_q": ("self_attn.norm_q.weight", "cast"),
    "norm_k": ("self_attn.norm_k.weight", "cast"),
    "cross_factor": ("norm3.weight", "row"),
    "cross_offset": ("norm3.bias", "row"),
    "cross_norm_q": ("cross_attn.norm_q.weight", "cast"),
    "cross_norm_k": ("cross_attn.norm_k.weight", "cast"),
}


class BlockPart(nn.Module):
    """Part of a block.

    Args:
        block: with products whose tensors are parameters.
        products: of the block that it multiplies with.
        factors: of the block that it has as well.
        rows: of a time's modulation that it reads, ``[1, 1, dim]``; parameters without numbers.
    """

    def __init__(
        self, block: BoundBlock, products: Sequence[str], factors: Sequence[str] = (),
        rows: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        for part in products:
            setattr(self, part, getattr(block, part))
        for part in factors:
            setattr(self, part, nn.Parameter(getattr(block, part), requires_grad=False))
        for row in rows:
            setattr(self, row, row_of_time(block.norm_q.shape[0], block.norm_q.dtype))
        self._block, self._factors, self._rows = block, tuple(factors), tuple(rows)

    @property
    def block(self) -> BoundBlock:
        """The block with this module's own parameters, which torch replaces while it traces."""
        return replace(self._block, **{part: getattr(self, part) for part in self._factors})

    def modulation(self) -> Modulation:
        """The rows that are inputs of this part; no other is read."""
        none = torch.empty(0)
        return Modulation(*(getattr(self, row, none) for row in Modulation._fields))

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors that it is bound to and that no time changes."""
        return {name: value.detach() for name, value in self.named_parameters()
                if name not in self._rows}  # fmt: skip


def row_of_time(dim: int, dtype: torch.dtype) -> nn.Parameter:
    """Return a row that is given anew for every time."""
    return nn.Parameter(torch.empty(1, 1, dim, dtype=dtype, device="meta"), requires_grad=False)


def origin_of(name: str, layer: int | None) -> tuple[tuple[str, ...], str]:
    """Return the checkpoint's tensors that a weight is made of, and how.

    Args:
        name: of the weight in its part.
        layer: of the block; ``None`` for the head.
    """
    product, _, kind = name.rpartition(".")
    if layer is None:
        return (f"head.head.{kind}",), {"weight": "transpose", "bias": "row"}[kind]
    prefix = f"blocks.{layer}."
    if not product:
        source, how = _FACTOR_OF[kind]
        return (prefix + source,), how
    tensor = "weight" if kind == "scale" else kind
    sources = tuple(f"{prefix}{linear}.{tensor}" for linear in _LAYERS_OF[product])
    how = {"weight": "transpose", "bias": "row", "scale": "scale of each output"}[kind]
    return sources, how if len(sources) == 1 else f"join, {how}"


def meta_student(config: StreamConfig, dtype: torch.dtype, layers: int = 0) -> Student:
    """Return a student that has shapes and no memory.

    Args:
        config: of the network.
        dtype: of its parameters.
        layers: how many of its blocks to make.
    """
    with torch.device("meta"):
        student = Student(config.model, layers=layers)
    return student.to(dtype).eval().requires_grad_(False)
