"""One forward pass over the dual cache: what every torch backend runs or captures.

A ``PlannedPass`` holds a plan's integers and the tensors made from them; ``PassRunner`` runs it.
Nothing in a run allocates caches, reads a tensor on the host or branches on its values, so a run
can be captured once and replayed with other tensors in the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cache import DualKVCache, KVArena
from ..kernels.reference.rope_shot import SHOT_PHASE_RAD, rope_angles, rotation
from ..model.blocks import CrossAttend, Modulation

if TYPE_CHECKING:
    from .._native import ChunkPlan, ContextPlan
    from ..config import StreamConfig
    from ..kernels.kernel_set import KernelSet
    from ..model.student import Student


@dataclass(frozen=True, slots=True)
class TimeTable:
    """Everything that depends on the time alone: one modulation per layer, and the head's rows."""

    layers: list[Modulation]
    head: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPass:
    """One pass as it is run.

    Attributes:
        slots: arena slot of each latent frame.
        valid_frames: arena frames that keys are read from.
        rotation: complex64 ``[T, D / 2]`` for queries, and for keys as they are written.
        read_rotation: complex64 ``[valid tokens, D / 2]`` for keys as they are read, where keys
            are stored unrotated; else ``None``.
        cross: cross-attention of a layer.
    """

    slots: Sequence[int]
    valid_frames: int
    rotation: Tensor
    read_rotation: Tensor | None
    cross: Callable[[int], CrossAttend]


class PassRunner:
    """The student's blocks bound to kernels and to one dual cache.

    Args:
        student: the network, on its device and in its type.
        config: shapes and cache.
        kernels: which maths.
    """

    def __init__(self, student: Student, config: StreamConfig, kernels: KernelSet) -> None:
        self.student, self.config, self.kernels = student.eval(), config, kernels
        self.device, self.dtype = student.patch_embedding.weight.device, student.dtype
        self.scale = config.model.head_dim**-0.5
        self.cache = DualKVCache(
            config, head_major=kernels.head_major, dtype=self.dtype, device=self.device
        )
        self._times: dict[float, TimeTable] = {}
        with torch.inference_mode():
            self.blocks = [block.bind(kernels) for block in student.layers]

    def run(
        self, latents: Tensor, time: float, planned: PlannedPass, *, keep_flow: bool
    ) -> Tensor | None:
        """Run a pass; it writes its keys and values to the planned slots.

        Args:
            latents: ``[1, F, C, h, w]``.
            time: timestep of all frames, in [0, 1000].
            planned: slots and tables.
            keep_flow: without it the pass stops at the last layer's keys and values: the rest
                would be thrown away.

        Returns:
            The predicted flow like ``latents``, or ``None``.
        """
        kernels, times, frame_tokens = self.kernels, self.time_table(time), self.cache.frame_tokens
        x = self.student.embed_patches(latents.to(self.dtype))

        def rotate(z: Tensor) -> Tensor:
            return kernels.rotate(z, planned.rotation)

        def keep(z: Tensor) -> Tensor:
            return z

        rotate_key = rotate if planned.read_rotation is None else keep
        for layer, (bound, m) in enumerate(zip(self.blocks, times.layers, strict=True)):
            arena = self.cache.arenas[layer]

            def attend(q: Tensor, k: Tensor, v: Tensor, arena: KVArena = arena) -> Tensor:
                kernels.kv_append(arena.k, arena.v, k[0], v[0], planned.slots, frame_tokens)
                keys, values = arena.prefix(planned.valid_frames * frame_tokens)
                if planned.read_rotation is not None:
                    keys = kernels.rotate(keys, planned.read_rotation)
                return kernels.attention(q, keys, values, self.scale, None)

            if not keep_flow and layer == len(self.blocks) - 1:
                _, k, v = bound.project(x, m, rotate, rotate_key)
                kernels.kv_append(arena.k, arena.v, k[0], v[0], planned.slots, frame_tokens)
                return None
            x = bound(x, m, rotate, attend, planned.cross(layer), rotate_key)
        patches = self.student.head(x, *times.head, kernels)
        return self.student.fold_patches(patches, latents.shape[1], self.config.model.grid)

    def time_table(self, time: float) -> TimeTable:
        """Modulation of every layer at a time; computed once per time."""
        table = self._times.get(time)
        if table is None:
            features, rows = self.student.embed_times(
                torch.full((1, 1), time, dtype=torch.float32, device=self.device)
            )
            layers = [block.modulate(rows) for block in self.student.layers]
            table = self._times[time] = TimeTable(layers, self.student.head.modulate(features))
        return table

    def rotation(self, positions: Sequence[int], flags: Sequence[int]) -> Tensor:
        """Rotary table of some frames, complex64 ``[F * frame tokens, D / 2]``."""
        phase = SHOT_PHASE_RAD if self.config.shot.shot_phase else 0.0
        model = self.config.model
        angles = rope_angles(positions, [f * phase for f in flags], model.grid, model.head_dim)
        return rotation(angles).to(self.device)

    def context_rotation(self, plan: ContextPlan) -> Tensor:
        """Rotation of a context pass."""
        return self.rotation(plan.positions, plan.flags)

    def chunk_rotation(self, plan: ChunkPlan) -> Tensor:
        """Rotation of a chunk's queries, and of its keys as they are written."""
        return self.rotation(plan.positions, [plan.flag] * len(plan.positions))

    def read_rotation(self, plan: ChunkPlan) -> Tensor | None:
        """Rotation of every valid key when local keys are kept unrotated.

        The context is kept rotated in both modes, so its rows are the identity here.
        """
        if self.config.cache.key_rotation == "on_write":
            return None
        local = plan.key_positions[self.config.cache.context_frames :]
        table = self.rotation(local, [plan.flag] * len(local))
        context = self.config.cache.context_frames * self.cache.frame_tokens
        return torch.cat([table.new_ones(context, table.shape[1]), table])

    def close(self) -> None:
        """Drop caches and tables."""
        self.cache.arenas.clear()
        self._times.clear()
