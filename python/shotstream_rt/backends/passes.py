"""One forward pass over the dual cache: what every torch backend runs or captures.

``PlannedPass`` holds a plan's integers and the tensors made from them; ``PassRunner`` runs it.
Nothing in a run allocates caches, reads a tensor on the host or branches on its values, so a run
can be captured once and replayed with other tensors in the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cache import DualKVCache, KVArena
from ..history import spans_of
from ..model.blocks import BoundBlock, CrossAttend, Modulation
from ..nvtx import annotate, detail
from ..schedule import Schedule
from .base import BackendInfo
from .rotary_table import RotaryTable

if TYPE_CHECKING:
    from .._native import ChunkPlan, ContextPlan
    from ..config import StreamConfig
    from ..kernels.kernel_set import KernelSet
    from ..kernels.reference.history_attention import Spans
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
        context: frames in front that are context.
        spans: per layer, the keys that each head reads; ``None`` where all read everything.
    """

    slots: Sequence[int]
    valid_frames: int
    rotation: Tensor
    read_rotation: Tensor | None
    cross: Callable[[int], CrossAttend]
    context: int = 0
    spans: Sequence[Sequence[Spans] | None] | None = None


class PassRunner:
    """The student's blocks bound to kernels and to one dual cache, with all that passes read.

    Args:
        student: the network, on its device and in its type.
        config: shapes, cache and schedule.
        kernels: which maths.
    """

    def __init__(self, student: Student, config: StreamConfig, kernels: KernelSet) -> None:
        self.student, self.config, self.kernels = student.eval(), config, kernels
        self.device, self.dtype = student.patch_embedding.weight.device, student.dtype
        self.scale = config.model.head_dim**-0.5
        self.schedule = Schedule.from_config(config.schedule)
        self.cache = DualKVCache(
            config, head_major=kernels.head_major, dtype=self.dtype, device=self.device
        )
        steps = config.schedule.num_steps
        self.sigmas = torch.tensor(self.schedule.sigmas, dtype=torch.float64, device=self.device)
        self.noise = self.latents(steps, 1, config.shot.chunk_frames)
        self.context_rotation = self._table(config.cache.context_frames)
        self.rotation = self._table(config.shot.chunk_frames)
        self.read_rotation: RotaryTable | None = None
        if config.cache.key_rotation == "on_read":
            # The context is kept rotated in both modes.
            plain = config.cache.context_frames
            self.read_rotation = self._table(config.local_frames, plain_frames=plain)
        self._plan: ChunkPlan | None = None
        self._times: dict[float, TimeTable] = {}
        with torch.inference_mode():
            self.blocks = [block.bind(kernels) for block in student.layers]
            for time in (*self.schedule.timesteps, 0.0, self.schedule.commit_timestep):
                self.time_table(time)

    def info(self, name: str) -> BackendInfo:
        """Describe the backend called ``name`` that runs these passes."""
        return BackendInfo(
            name=name,
            kernel_set=self.kernels.name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            cache_bytes=self.cache.nbytes,
            weight_bytes=sum(p.nbytes for p in self.student.parameters()),
        )

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
        times = self.time_table(time)
        x = self.student.embed_patches(latents.to(self.dtype), planned.context)
        for layer, (bound, m) in enumerate(zip(self.blocks, times.layers, strict=True)):
            arena = self.cache.arenas[layer]
            with detail("layer", layer):
                if not keep_flow and layer == len(self.blocks) - 1:
                    self._append(planned, bound, arena, bound.project(x, m))
                    return None
                attend = partial(self._attend, planned, layer)
                x = bound(x, m, attend, planned.cross(layer))
        patches = self.student.head(x, *times.head, self.kernels)
        return self.student.fold_patches(patches, latents.shape[1], self.config.model.grid)

    def finish_step(self, step: int, x: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Give a step's clean estimate and the next step's input; after the last step that is x0.

        Args:
            step: the step that was run.
            x: its input ``[1, F, C, h, w]``.
            flow: what it predicted.
        """
        if step + 1 == len(self.schedule.sigmas):
            x0 = self.kernels.to_x0(x, flow, self.sigmas[step])
            return x0, x0
        with annotate("renoise", step + 1):
            return self.kernels.advance(x, flow, self.noise[step + 1], self.sigmas, step)

    def place(self, plan: ChunkPlan) -> None:
        """Turn the rotary tables to a chunk's plan; a plan's passes share them."""
        if self._plan is plan:
            return
        self._plan = plan
        flags = [plan.flag] * self.config.arena_frames
        self.rotation.set(plan.positions, flags[: len(plan.positions)])
        if self.read_rotation is not None:
            local = plan.key_positions[self.config.cache.context_frames :]
            self.read_rotation.set(local, flags[: len(local)])

    def chunk_pass(self, plan: ChunkPlan, cross: Callable[[int], CrossAttend]) -> PlannedPass:
        """Return the pass of a chunk that is, or will be, in place."""
        valid_tokens = plan.valid_frames * self.cache.frame_tokens
        read = self.read_rotation
        return PlannedPass(
            slots=plan.write_slots,
            valid_frames=plan.valid_frames,
            rotation=self.rotation.rows,
            read_rotation=None if read is None else read.rows[:valid_tokens],
            cross=cross,
            spans=self._spans(plan),
        )

    def context_pass(self, plan: ContextPlan, cross: Callable[[int], CrossAttend]) -> PlannedPass:
        """Return the context pass, with its rotary table set."""
        self.context_rotation.set(plan.positions, plan.flags)
        return PlannedPass(
            slots=plan.slots,
            valid_frames=plan.valid_frames,
            rotation=self.context_rotation.rows,
            read_rotation=None,
            cross=cross,
            context=len(plan.slots),
        )

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

    def latents(self, *leading: int) -> Tensor:
        """Return zeros ``[*leading, C, h, w]``."""
        model = self.config.model
        shape = (*leading, model.in_dim, model.latent_height, model.latent_width)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def close(self) -> None:
        """Drop caches and tables."""
        self.cache.arenas.clear()
        self._times.clear()

    def _append(
        self, planned: PlannedPass, bound: BoundBlock, arena: KVArena, qkv: Tensor
    ) -> Tensor:
        """Store a layer's keys and values; give its queries."""
        rotate_key = planned.read_rotation is None
        return bound.append(qkv, planned.rotation, arena, planned.slots, rotate_key=rotate_key)

    def _attend(self, planned: PlannedPass, layer: int, qkv: Tensor) -> Tensor:
        """Store keys and values, then attend to the arena's valid prefix: ``[1, T, dim]``."""
        arena = self.cache.arenas[layer]
        q = self._append(planned, self.blocks[layer], arena, qkv)
        keys, values = arena.prefix(planned.valid_frames * self.cache.frame_tokens)
        if planned.read_rotation is not None:
            keys = self.kernels.rotate(keys, planned.read_rotation)
        spans = None if planned.spans is None else planned.spans[layer]
        if spans is not None:
            return self.kernels.history_attention(q, keys, values, self.scale, spans).flatten(2)
        return self.kernels.attention(q, keys, values, self.scale, None).flatten(2)

    def _spans(self, plan: ChunkPlan) -> list[list[Spans] | None] | None:
        """Keys of every head in a chunk's passes; ``None`` where nothing is hidden from any."""
        policy, cache, heads = self.config.history, self.config.cache, self.config.model.num_heads
        if policy is None:
            return None
        slots = policy.visible_slots(
            plan.slot_frames, plan.first_frame, cache.context_frames, cache.sink_frames
        )
        if len(slots) == plan.valid_frames:
            return None
        few = spans_of(slots, self.cache.frame_tokens)
        whole = [(0, plan.valid_frames * self.cache.frame_tokens)]
        return [
            [few if head in pruned else whole for head in range(heads)] if pruned else None
            for pruned in policy.pruned_heads
        ]

    def _table(self, frames: int, plain_frames: int = 0) -> RotaryTable:
        return RotaryTable(
            self.config.model,
            frames,
            shot_phase=self.config.shot.shot_phase,
            device=self.device,
            plain_frames=plain_frames,
        )
