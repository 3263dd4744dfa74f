"""The student as the runtime holds it: every weight once, fused and packed for one kernel set.

Made from a checkpoint one linear layer at a time: its tensors are read, fused and dropped before
the next one is read, so that loading needs little more memory than what stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from .blocks import Block, BoundBlock, Modulation, modulate
from .checkpoint import check_tensors, place_into
from .lazy_tensors import LazyTensors
from .student import Student

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..kernels.sets.kernel_set import KernelSet


class TimeTable(NamedTuple):
    """Everything in a pass that depends on its time alone.

    Attributes:
        layers: modulation of every block.
        head: factor and offset of the head, ``[1, F or 1, dim]`` each.
    """

    layers: Sequence[Modulation]
    head: tuple[Tensor, Tensor]


def by_frame(tables: Sequence[TimeTable]) -> TimeTable:
    """Return the table of a pass whose frames have times of their own; ``tables`` are theirs."""
    layers = zip(*(table.layers for table in tables), strict=True)
    factor, offset = zip(*(table.head for table in tables), strict=True)
    return TimeTable(
        tuple(
            Modulation(*(torch.cat(rows, 1) for rows in zip(*own, strict=True))) for own in layers
        ),
        (torch.cat(factor, 1), torch.cat(offset, 1)),
    )


class BoundStudent:
    """A student ready to run. Read only: any number of films share one.

    Args:
        edges: everything but the blocks.
        blocks: bound to ``kernels``.
        kernels: the kernel set to run.

    Attributes:
        config: shape of the network.
        device: where it runs.
        dtype: of activations, caches and latents.
    """

    def __init__(self, edges: Student, blocks: Sequence[BoundBlock], kernels: KernelSet) -> None:
        self.edges, self.blocks, self.kernels = edges, tuple(blocks), kernels
        self.config, self.dtype = edges.config, edges.dtype
        self.device = edges.patch_embedding.weight.device

    @classmethod
    @torch.no_grad()
    def from_student(cls, student: Student, kernels: KernelSet) -> BoundStudent:
        """Bind a student that is in memory; as long as that is kept, its weights are held twice."""
        with torch.device("meta"):
            edges = Student(student.config, layers=0)
        names = edges.state_dict()
        shared = {k: v for k, v in student.state_dict().items() if k in names}
        edges.load_state_dict(shared, assign=True)
        blocks = [block.bind(kernels) for block in student.layers]
        return cls(edges.eval().requires_grad_(False), blocks, kernels)

    @classmethod
    @torch.no_grad()
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        config: ModelConfig,
        kernels: KernelSet,
        *,
        source: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> BoundStudent:
        """Load and bind a student, one linear layer at a time.

        Args:
            state: exactly the tensors of a ``Student`` of this shape; each is read once.
            config: shape of the network.
            kernels: the kernel set to run.
            source: named in errors.
            device: where the weights go.
            dtype: what they are cast to; ``None`` keeps the file's.

        Raises:
            WeightsError: names or shapes differ.
        """
        with torch.device("meta"):
            edges, whole = Student(config, layers=0), Student(config)
        lazy = LazyTensors.of(state)
        check_tensors(lazy, {k: v.shape for k, v in whole.state_dict().items()}, source)

        def load(network: nn.Module, prefix: str, names: Iterable[str], **how: bool) -> None:
            """Fill some of a network's parameters.

            Args:
                network: on the meta device.
                prefix: of its tensors' names in the file.
                names: of the parameters, without the prefix.
                how: as for ``place_into``.
            """
            own = LazyTensors({name: lazy.entries[prefix + name] for name in names})
            place_into(network, own, device=device, dtype=dtype, **how)
            network.eval().requires_grad_(False)

        load(edges, "", edges.state_dict())
        blocks = []
        for layer in range(config.num_layers):
            with torch.device("meta"):
                block = Block(config)
            prefix = f"blocks.{layer}."
            load(block, prefix, block.names_beside_linear_layers(), whole=False)

            def load_linear(linear: nn.Linear, name: str, prefix: str = prefix) -> None:
                """Fill one linear layer of a block.

                Args:
                    linear: on the meta device.
                    name: of the layer in the block.
                    prefix: of the block's tensors' names in the file.
                """
                load(linear, f"{prefix}{name}.", ("weight", "bias"), briefly=True)

            blocks.append(block.bind(kernels, load_linear))
        return cls(edges, blocks, kernels)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights held."""
        own = sum(parameter.nbytes for parameter in self.edges.parameters())
        return own + sum(block.nbytes for block in self.blocks)

    def time_table(self, time: float) -> TimeTable:
        """Tabulate a timestep in [0, 1000], the same for all frames of a pass."""
        times = torch.full((1, 1), time, dtype=torch.float32, device=self.device)
        features, rows = self.edges.embed_times(times)
        layers = tuple(modulate(rows, block.modulation) for block in self.blocks)
        return TimeTable(layers, self.edges.head.modulate(features))
