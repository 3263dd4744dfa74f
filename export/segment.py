"""Segments: what a block does before, between and after its two attentions, and the head.

Each is a bound block's own method (``model/blocks.py``). Attention, the write into the arena and
captions are not in them: a kernel set's kernels stand beside. All layers and all times run the same
segments, because weights and the rows of a time's modulation are inputs: "an engine per denoising
step" is a set of bindings per step on one engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..kernels.sets.kernel_set import TORCH_OPS
from ..model.blocks import BoundBlock, Head
from .block_part import BlockPart, meta_student, row_of_time
from .product import Product, with_products

if TYPE_CHECKING:
    from ..config import StreamConfig

PROJECT, REST1, REST2, HEAD = "project", "rest1", "rest2", "head"

ROWS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    PROJECT: ("attention_factor", "attention_offset"),
    REST1: ("attention_gate",),
    REST2: ("ffn_factor", "ffn_offset", "ffn_gate"),
    HEAD: ("factor", "offset"),
})  # fmt: skip
"""Inputs of each segment that depend on a pass's time, ``[1, 1, dim]``; the blocks' are named like
the fields of ``Modulation``."""

ACTIVATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    PROJECT: ("x",), REST1: ("x", "attended"), REST2: ("x", "attended"), HEAD: ("x",),
})  # fmt: skip
"""Inputs of each segment that another one or an attention computed, ``[1, T, dim]``."""

RESULTS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    PROJECT: ("qkv",), REST1: ("y", "q"), REST2: ("y",), HEAD: ("patches",),
})  # fmt: skip


class Project(BlockPart):
    """``BoundBlock.project``."""

    def __init__(self, block: BoundBlock) -> None:
        super().__init__(block, ("qkv",), rows=ROWS[PROJECT])

    def forward(self, x: Tensor) -> Tensor:
        """Give queries | keys | values ``[1, T, 3 * dim]`` of ``[1, T, dim]``."""
        return self.block.project(x, self.modulation())


class Rest1(BlockPart):
    """``BoundBlock.leave_self``."""

    def __init__(self, block: BoundBlock) -> None:
        super().__init__(
            block, ("out", "cross_q"), ("cross_factor", "cross_offset", "cross_norm_q"), ROWS[REST1]
        )

    def forward(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Give the sum ``[1, T, dim]`` and cross-attention's queries ``[1, T, N, D]``.

        Args:
            x: ``[1, T, dim]``.
            attended: like ``x``.
        """
        return self.block.leave_self(x, attended, self.modulation())


class Rest2(BlockPart):
    """``BoundBlock.leave_cross``."""

    def __init__(self, block: BoundBlock) -> None:
        super().__init__(block, ("cross_out", "ffn_up", "ffn_down"), rows=ROWS[REST2])

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Give the block's result ``[1, T, dim]``.

        Args:
            x: ``[1, T, dim]``.
            attended: like ``x``.
        """
        return self.block.leave_cross(x, attended, self.modulation())


class HeadSegment(nn.Module):
    """``Head.forward``; never in 8 bits.

    Args:
        head: of a student.
        block: of the same student, for its kernels.
    """

    def __init__(self, head: Head, block: BoundBlock) -> None:
        super().__init__()
        self.product, self.eps = Product([head.head]), head.eps
        self.head_norm = block.kernels.head_norm
        for row in ROWS[HEAD]:
            setattr(self, row, row_of_time(head.head.in_features, head.head.weight.dtype))

    def weights(self) -> dict[str, Tensor]:
        """See ``BlockPart``."""
        return {name: value.detach() for name, value in self.named_parameters()
                if name not in ROWS[HEAD]}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Give ``[1, T, 4 * out_dim]`` of ``[1, T, dim]``."""
        factor, offset = self.factor, self.offset
        assert isinstance(factor, Tensor) and isinstance(offset, Tensor)
        y: Tensor = self.product(self.head_norm(x, factor, offset, self.eps))
        return y


OF_BLOCKS: Mapping[str, type[Project | Rest1 | Rest2]] = MappingProxyType({
    PROJECT: Project, REST1: Rest1, REST2: Rest2,
})  # fmt: skip


def segment_networks(
    config: StreamConfig, dtype: torch.dtype, products: str
) -> dict[str, nn.Module]:
    """Return the segments of any block, and of the head, on the meta device.

    Args:
        config: of the model.
        dtype: of weights and activations.
        products: what linear layers multiply.
    """
    student = meta_student(config, dtype, layers=1)
    block = student.layers[0].bind(with_products(TORCH_OPS, products))
    networks: dict[str, nn.Module] = {name: kind(block) for name, kind in OF_BLOCKS.items()}
    return networks | {HEAD: HeadSegment(student.head, block)}
