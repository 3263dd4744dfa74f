"""A block and a head whose arithmetic an engine library computes, segment by segment.

They stand where the bound ones stand: passes, eager or captured, and every cache policy run them
unchanged. Attention, the write into the arena and captions stay with the kernel set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor, nn

from ..export.segment import HEAD, OF_BLOCKS, PROJECT, REST1, REST2, ROWS, HeadSegment
from ..kernels.sets.kernel_set import KernelSet
from ..model.blocks import BoundBlock, Head, Modulation


class SegmentRunner(Protocol):
    """Runs exported segments."""

    def run(self, name: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Run one.

        Args:
            name: of the graph, such as ``chunk_project``.
            inputs: contiguous tensors by name, weights among them.
            outputs: likewise; written in place.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineBlock(BoundBlock):
    """A bound block whose three parts an engine library runs.

    Attributes:
        runner: runs them; shared by all blocks.
        kinds: ``chunk`` or ``context`` by a pass's number of tokens.
        weights: of each segment, by the names of its inputs.
    """

    runner: SegmentRunner
    kinds: Mapping[int, str]
    weights: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def of(cls, block: BoundBlock, runner: SegmentRunner, kinds: Mapping[int, str]) -> EngineBlock:
        """Take over a block's tensors.

        Args:
            block: bound to products of ``export/product.py``.
            runner: see ``EngineBlock``.
            kinds: likewise.
        """
        own = {field.name: getattr(block, field.name) for field in fields(BoundBlock)}
        weights = {name: kind(block).weights() for name, kind in OF_BLOCKS.items()}
        return cls(**own, runner=runner, kinds=kinds, weights=weights)

    def project(self, x: Tensor, m: Modulation) -> Tensor:
        """See ``BoundBlock``."""
        qkv = x.new_empty(*x.shape[:2], 3 * x.shape[2])
        self._run(PROJECT, m, {"x": x}, {"qkv": qkv})
        return qkv

    def leave_self(self, x: Tensor, attended: Tensor, m: Modulation) -> tuple[Tensor, Tensor]:
        """See ``BoundBlock``.

        Args:
            x: ``[1, T, dim]``, as given to ``project``.
            attended: ``[1, T, dim]``.
            m: as for ``project``.
        """
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        q = x.new_empty(*x.shape[:2], self.heads, x.shape[2] // self.heads)
        self._run(REST1, m, {"x": x, "attended": attended}, {"y": y, "q": q})
        return y, q

    def leave_cross(self, x: Tensor, attended: Tensor, m: Modulation) -> Tensor:
        """See ``BoundBlock``.

        Args:
            x: ``[1, T, dim]``, from ``leave_self``.
            attended: ``[1, T, dim]``.
            m: as for ``project``.
        """
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        self._run(REST2, m, {"x": x, "attended": attended}, {"y": y})
        return y

    def _run(
        self, name: str, m: Modulation, given: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> None:
        """Run a segment with this block's weights.

        Args:
            name: of the segment.
            m: of the pass's time.
            given: its activations.
            outputs: its results.
        """
        tokens = given["x"].shape[1]
        rows = {row: getattr(m, row).contiguous() for row in ROWS[name]}
        inputs = {key: value.contiguous() for key, value in given.items()}
        self.runner.run(
            f"{self.kinds[tokens]}_{name}", {**inputs, **rows, **self.weights[name]}, outputs
        )


class EngineHead(Head):
    """A head that an engine library runs.

    Args:
        head: whose parameters it takes over.
        block: of the same student, for its kernels.
        runner: see ``EngineBlock``.
    """

    def __init__(self, head: Head, block: BoundBlock, runner: SegmentRunner) -> None:
        nn.Module.__init__(self)
        self.eps, self.modulation, self._width = head.eps, head.modulation, head.head.out_features
        self.weights = HeadSegment(head, block).weights()
        self._runner = runner

    def forward(self, x: Tensor, factor: Tensor, offset: Tensor, kernels: KernelSet) -> Tensor:
        """See ``Head``.

        Args:
            x: ``[1, T, dim]`` of a chunk.
            factor: ``[1, 1, dim]``.
            offset: likewise.
            kernels: not used: the segment has the norm.
        """
        patches = x.new_empty(*x.shape[:2], self._width)
        rows = {"factor": factor.contiguous(), "offset": offset.contiguous()}
        inputs = {"x": x.contiguous(), **rows, **self.weights}
        self._runner.run(f"chunk_{HEAD}", inputs, {"patches": patches})
        return patches
