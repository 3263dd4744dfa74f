"""The eager backend: the student's blocks run one after the other on any device; the oracle.

It is the model plus a ``KernelSet``: with the reference set on the CPU it defines what is correct,
with the ``cpu`` set it is the fast path of machines without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cache import CaptionCache, CaptionKV, DualKVCache, KVArena, fold_padding
from ..kernels.reference.renoise import renoise, to_x0
from ..kernels.reference.rope_shot import SHOT_PHASE_RAD, rope_angles, rotation
from ..model.blocks import BoundBlock, CrossAttend, Modulation
from ..schedule import Schedule
from .base import BackendInfo

if TYPE_CHECKING:
    from .._native import ChunkPlan, ContextPlan
    from ..config import StreamConfig
    from ..kernels.kernel_set import KernelSet
    from ..model.captions import CaptionSet
    from ..model.student import Student


_KEPT_ROTATIONS = 64


@dataclass(frozen=True, slots=True)
class TimeTable:
    """Everything that depends on the time alone: one modulation per layer, and the head's rows."""

    layers: list[Modulation]
    head: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class PlannedPass:
    """One pass as a backend needs it: a plan's integers and the tables made from them."""

    slots: Sequence[int]
    valid_frames: int
    rotation: Tensor
    read_rotation: Tensor | None
    rows: Sequence[int]


class EagerBackend:
    """Runs planned passes with plain torch calls.

    Args:
        student: the network, on its device and in its type.
        config: shapes, cache and schedule.
        kernels: which maths.
    """

    def __init__(self, student: Student, config: StreamConfig, kernels: KernelSet) -> None:
        self.student, self.config, self.kernels = student.eval(), config, kernels
        self.device, self.dtype = student.patch_embedding.weight.device, student.dtype
        self.schedule = Schedule.from_config(config.schedule)
        self.cache = DualKVCache(
            config, head_major=kernels.head_major, dtype=self.dtype, device=self.device
        )
        self._captions = CaptionCache()
        self._tables: dict[float, TimeTable] = {}
        self._rotations: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = {}
        self._scale = config.model.head_dim**-0.5
        with torch.inference_mode():
            self._blocks = [block.bind(kernels) for block in student.layers]
            for time in (*self.schedule.timesteps, 0.0, self.schedule.commit_timestep):
                self.time_table(time)

    @property
    def info(self) -> BackendInfo:
        """What was resolved."""
        weights = sum(p.nbytes for p in self.student.parameters())
        return BackendInfo(
            name="eager",
            kernel_set=self.kernels.name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            cache_bytes=self.cache.nbytes,
            weight_bytes=weights,
        )

    @torch.inference_mode()
    def set_captions(self, captions: CaptionSet) -> None:
        """See ``StudentBackend.set_captions``."""
        embeddings = captions.embeddings.to(self.device, self.dtype)
        folded = fold_padding(embeddings, captions.lengths)
        texts = [(self.student.embed_text(rows[None]), bias) for rows, bias in folded]
        self._captions = CaptionCache(
            [[self._caption_kv(block, *text) for text in texts] for block in self._blocks]
        )

    @torch.inference_mode()
    def encode_context(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> None:
        """See ``StudentBackend.encode_context``."""
        self._pass(latents, 0.0, self._context_pass(plan, rows), keep_flow=False)

    @torch.inference_mode()
    def denoise(self, step: int, plan: ChunkPlan, row: int, x: Tensor) -> Tensor:
        """See ``StudentBackend.denoise``."""
        flow = self.predict_flow(self.schedule.timesteps[step], plan, row, x)
        return to_x0(x, flow, self.schedule.sigmas[step])

    def renoise(self, step: int, x0: Tensor, noise: Tensor) -> Tensor:
        """See ``StudentBackend.renoise``."""
        return renoise(x0, noise, self.schedule.sigmas[step])

    @torch.inference_mode()
    def commit(self, plan: ChunkPlan, row: int, x0: Tensor) -> None:
        """See ``StudentBackend.commit``."""
        time = self.schedule.commit_timestep
        self._pass(x0, time, self._chunk_pass(plan, row), keep_flow=False)

    @torch.inference_mode()
    def predict_flow(self, time: float, plan: ChunkPlan, row: int, x: Tensor) -> Tensor:
        """Run a chunk pass at any time; returns flow like ``x``."""
        flow = self._pass(x, time, self._chunk_pass(plan, row), keep_flow=True)
        assert flow is not None
        return flow

    @torch.inference_mode()
    def context_flow(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> Tensor:
        """Run the whole context pass, head included, which only parity checks need."""
        flow = self._pass(latents, 0.0, self._context_pass(plan, rows), keep_flow=True)
        assert flow is not None
        return flow

    def close(self) -> None:
        """Drop caches and tables."""
        self.cache.arenas.clear()
        self._captions = CaptionCache()
        self._tables.clear()
        self._rotations.clear()

    def time_table(self, time: float) -> TimeTable:
        """Modulation of every layer at a time; computed once per time."""
        table = self._tables.get(time)
        if table is None:
            features, rows = self.student.embed_times(
                torch.full((1, 1), time, dtype=torch.float32, device=self.device)
            )
            layers = [block.modulate(rows) for block in self.student.layers]
            table = self._tables[time] = TimeTable(layers, self.student.head.modulate(features))
        return table

    def _pass(
        self, latents: Tensor, time: float, planned: PlannedPass, *, keep_flow: bool
    ) -> Tensor | None:
        """One forward pass that writes its keys and values to the planned slots.

        Without ``keep_flow`` it stops at the last layer's keys and values: the rest would be
        thrown away.
        """
        kernels, times, frame_tokens = self.kernels, self.time_table(time), self.cache.frame_tokens
        x = self.student.embed_patches(latents.to(self.dtype))

        def rotate(z: Tensor) -> Tensor:
            return kernels.rotate(z, planned.rotation)

        def keep(z: Tensor) -> Tensor:
            return z

        rotate_key = rotate if planned.read_rotation is None else keep
        for layer, (bound, m) in enumerate(zip(self._blocks, times.layers, strict=True)):
            arena = self.cache.arenas[layer]

            def attend(q: Tensor, k: Tensor, v: Tensor, arena: KVArena = arena) -> Tensor:
                kernels.kv_append(arena.k, arena.v, k[0], v[0], planned.slots, frame_tokens)
                keys, values = arena.prefix(planned.valid_frames * frame_tokens)
                if planned.read_rotation is not None:
                    keys = kernels.rotate(keys, planned.read_rotation)
                return kernels.attention(q, keys, values, self._scale, None)

            if not keep_flow and layer == len(self._blocks) - 1:
                _, k, v = bound.project(x, m, rotate, rotate_key)
                kernels.kv_append(arena.k, arena.v, k[0], v[0], planned.slots, frame_tokens)
                return None
            x = bound(x, m, rotate, attend, self._cross(layer, planned.rows), rotate_key)
        patches = self.student.head(x, *times.head, kernels)
        return self.student.fold_patches(patches, latents.shape[1], self.config.model.grid)

    def _caption_kv(self, block: BoundBlock, text: Tensor, bias: Tensor) -> CaptionKV:
        """One layer's caption keys, in the memory order that the kernels' attention wants."""
        k, v = block.caption_kv(text)
        if self.kernels.head_major:
            k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
        return CaptionKV(k, v, bias)

    def _cross(self, layer: int, rows: Sequence[int]) -> CrossAttend:
        """Cross-attention in which every run of frames attends to its own caption."""
        captions, attention = self._captions.layers[layer], self.kernels.attention
        runs = [(row, len(list(group))) for row, group in groupby(rows)]

        def cross(q: Tensor) -> Tensor:
            parts, start = [], 0
            for row, frames in runs:
                end = start + frames * self.cache.frame_tokens
                caption = captions[row]
                part = attention(q[:, start:end], caption.k, caption.v, self._scale, caption.bias)
                parts.append(part)
                start = end
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

        return cross

    def _context_pass(self, plan: ContextPlan, rows: Sequence[int]) -> PlannedPass:
        return PlannedPass(
            slots=plan.slots,
            valid_frames=plan.valid_frames,
            rotation=self._rotation(plan.positions, plan.flags),
            read_rotation=None,
            rows=rows,
        )

    def _chunk_pass(self, plan: ChunkPlan, row: int) -> PlannedPass:
        frames = len(plan.positions)
        return PlannedPass(
            slots=plan.write_slots,
            valid_frames=plan.valid_frames,
            rotation=self._rotation(plan.positions, [plan.flag] * frames),
            read_rotation=self._read_rotation(plan),
            rows=[row] * frames,
        )

    def _read_rotation(self, plan: ChunkPlan) -> Tensor | None:
        """Rotation of every valid key when local keys are kept unrotated.

        The context is kept rotated in both modes, so its rows are the identity here.
        """
        if self.config.cache.key_rotation == "on_write":
            return None
        local = plan.key_positions[self.config.cache.context_frames :]
        table = self._rotation(local, [plan.flag] * len(local))
        context = self.config.cache.context_frames * self.cache.frame_tokens
        return torch.cat([table.new_ones(context, table.shape[1]), table])

    def _rotation(self, positions: Sequence[int], flags: Sequence[int]) -> Tensor:
        """Rotary table of some frames, tabulated once per (positions, flags)."""
        key = tuple(positions), tuple(flags)
        table = self._rotations.get(key)
        if table is None:
            phase = SHOT_PHASE_RAD if self.config.shot.shot_phase else 0.0
            angles = rope_angles(
                positions,
                [flag * phase for flag in flags],
                self.config.model.grid,
                self.config.model.head_dim,
            )
            if len(self._rotations) >= _KEPT_ROTATIONS:
                self._rotations.pop(next(iter(self._rotations)))
            table = self._rotations[key] = rotation(angles).to(self.device)
        return table
