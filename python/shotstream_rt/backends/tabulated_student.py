"""A student and its time tables: what all films of a torch backend share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..kernels.reference.dual_attention_fp8 import key_scales, value_scales
from ..kernels.sets.arena_layout import ArenaScales
from ..model.bound_student import by_frame
from ..plan.schedule import Schedule
from .base import BackendInfo
from .cache import DualKVCache

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..model.blocks import BoundBlock, Modulation
    from ..model.bound_student import BoundStudent, TimeTable


@dataclass(frozen=True, slots=True, kw_only=True)
class TabulatedStudent:
    """A student and its time tables: what all films of a torch backend share, read only.

    Attributes:
        config: shapes, cache and schedule.
        student: the weights.
        schedule: times and noise levels.
        sigmas: float64 on the device, of each of the schedule's levels.
        tables: time table of each level.
        mixed: time tables of passes whose frames have different levels, made when first asked for.
        arena_scales: by layer, of what the kernel set keeps in 8 bits.
    """

    config: StreamConfig
    student: BoundStudent
    schedule: Schedule
    sigmas: Tensor
    tables: Sequence[TimeTable]
    mixed: dict[tuple[int, ...], TimeTable]
    arena_scales: Sequence[ArenaScales]

    @classmethod
    @torch.no_grad()
    def of(cls, student: BoundStudent, config: StreamConfig) -> TabulatedStudent:
        """Compute the time tables of a student."""
        schedule = Schedule.from_config(config.schedule)
        tables = [student.time_table(level.time) for level in schedule.levels]
        sigmas = [level.sigma for level in schedule.levels]
        return cls(
            config=config,
            student=student,
            schedule=schedule,
            sigmas=torch.tensor(sigmas, dtype=torch.float64, device=student.device),
            tables=tables,
            mixed={},
            arena_scales=[
                _arena_scales(block, [table.layers[layer] for table in tables])
                for layer, block in enumerate(student.blocks)
            ],
        )

    def mixed_times(self, levels: tuple[int, ...]) -> TimeTable:
        """Return the time table of a pass whose frames have these levels, not all the same."""
        if levels not in self.mixed:
            self.mixed[levels] = by_frame([self.tables[level] for level in levels])
        return self.mixed[levels]

    def info(self, name: str, arena_frames: int) -> BackendInfo:
        """Describe the backend called ``name``."""
        student = self.student
        return BackendInfo(
            name=name,
            kernel_set=student.kernels.name,
            device=str(student.device),
            dtype=str(student.dtype).removeprefix("torch."),
            cache_bytes=DualKVCache.bytes_of(
                self.config.model, arena_frames, student.kernels.arena, student.dtype
            ),
            weight_bytes=student.nbytes,
        )


def _arena_scales(block: BoundBlock, times: Sequence[Modulation]) -> ArenaScales:
    """Scales of a layer's arena that hold for every pass.

    Args:
        block: of the layer.
        times: its modulation at every time that passes have.
    """
    if not block.kernels.arena.keys_in_8_bits:
        return ArenaScales()
    keys = key_scales(block.norm_k, block.heads)
    if block.value_reach is None:
        return ArenaScales(keys=keys)
    factors, offsets = (
        torch.cat([rows.flatten(0, -2) for rows in given])
        for given in zip(*((m.attention_factor, m.attention_offset) for m in times), strict=True)
    )
    return ArenaScales(keys=keys, values=value_scales(block.value_reach, factors, offsets))
