"""One forward pass over a film's dual cache: what every torch backend runs or captures.

``PassInputs`` holds a plan's integers and the tensors made from them; ``PassRunner`` runs it.
Nothing in a run allocates caches, reads a tensor on the host or branches on its values, so a run
can be captured once and replayed with other tensors in the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..abandonment import ChunkAbandonedError, never
from ..kernels.cpu.instructions import divides_exactly
from ..kernels.reference.dual_attention_fp8 import key_scales, value_scales
from ..kernels.sets.arena_layout import ArenaScales
from ..model.bound_student import by_frame
from ..nvtx import annotate, detail
from ..plan.policy import PassPlan, RolloutPolicy
from ..plan.schedule import Schedule
from .base import BackendInfo
from .cache import DualKVCache, KVArena
from .pass_tokens import PassTokens, in_halves
from .rotary_table import RotaryTable

if TYPE_CHECKING:
    from ..config import StreamConfig
    from ..device.companion import Companion
    from ..kernels.reference.history_attention import Spans
    from ..model.blocks import BoundBlock, Modulation
    from ..model.bound_student import BoundStudent, TimeTable
    from .cross_attention import Captions

HeadSpans = Sequence["Spans"]
"""Token ranges that each head of a layer reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassInputs:
    """One pass as it is run.

    Attributes:
        plan: its integers.
        rotation: complex64 ``[T, D / 2]`` for queries, and for keys as they are written.
        read_rotation: complex64 ``[read tokens, D / 2]`` for keys as they are read, where some are
            stored unrotated; else ``None``.
        read_tokens: length of the arena's prefix that is read.
        spans: by layer, what each head reads of that prefix; ``None`` where all read all of it, in
            a layer or altogether.
        as_stored: whether all heads read all of the prefix, and as it is stored: not rotated, and
            not in 8 bits.
    """

    plan: PassPlan
    rotation: Tensor
    read_rotation: Tensor | None
    read_tokens: int
    spans: Sequence[HeadSpans | None] | None
    as_stored: bool


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

    def times(self, levels: tuple[int, ...]) -> TimeTable:
        """Return the time table of a pass whose frames have these levels."""
        if levels.count(levels[0]) == len(levels):
            return self.tables[levels[0]]
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


class PassRunner:
    """One film's caches and rotary tables, and the passes over them.

    ``place`` puts a plan's positions into the tables, ``run`` runs a pass with them, and
    ``advance`` makes the next step's input of what the pass predicted. Latents, predicted flows and
    clean estimates ``x0`` are ``[1, F, C, h, w]`` for the plan's frames, noise is
    ``[S, 1, F, C, h, w]`` for all steps.

    Args:
        shared: weights and tables.
        policy: plans the passes; says how large the arenas are.

    Attributes:
        companion: computes half of a pass, where that gives the same bits; None for nobody.
    """

    def __init__(self, shared: TabulatedStudent, policy: RolloutPolicy) -> None:
        self.shared, self.student, self.config = shared, shared.student, shared.config
        self.kernels, self.device = self.student.kernels, self.student.device
        model = self.config.model
        self._scale, self._grid = model.head_dim**-0.5, model.grid
        self.cache = DualKVCache(
            model,
            policy.arena_frames,
            layout=self.kernels.arena,
            dtype=self.student.dtype,
            device=self.device,
            scales=shared.arena_scales,
        )
        self._rotation = self._table(policy.arena_frames)
        self._read_rotation: RotaryTable | None = None
        positions = policy.chunk(0, 0, 0).read_positions
        if positions is not None:
            # Slots that hold rotated keys come first, and are the same in every chunk.
            rotated = positions.count(None)
            self._read_rotation = self._table(policy.arena_frames - rotated, plain_frames=rotated)
        self._placed: PassPlan | None = None
        self.companion: Companion | None = None

    def run(
        self, latents: Tensor, times: TimeTable, inputs: PassInputs, captions: Captions, *,
        keep_flow: bool, abandoned: Callable[[], bool] = never,
    ) -> Tensor | None:  # fmt: skip
        """Run a pass, which leaves keys and values in the planned slots; give the predicted flow.

        Args:
            latents: the frames that it is over, ``[1, F, C, h, w]`` of any float type.
            times: time table of their levels.
            inputs: of the plan that was placed last.
            captions: what the frames attend to.
            keep_flow: without, the pass ends at the last layer's keys and values and gives None.
            abandoned: asked before each layer; ``ChunkAbandonedError`` if it says yes.
        """
        edges, plan, frames = self.student.edges, inputs.plan, latents.shape[1]
        context = len(plan.writes) if plan.chunk is None else 0
        x = edges.embed_patches(latents.to(self.student.dtype), context)
        layers = partial(self._layers, times, inputs, keep_flow, abandoned)
        tokens = PassTokens(plan=plan, rotation=inputs.rotation, captions=captions)
        if self.companion is not None and self._divides(times):
            patches = in_halves(self.companion, layers, x, tokens)
        else:
            patches = layers(x, tokens)
        return None if patches is None else edges.fold_patches(patches, frames, self._grid)

    def _layers(
        self, times: TimeTable, inputs: PassInputs, keep_flow: bool, abandoned: Callable[[], bool],
        x: Tensor, own: PassTokens,
    ) -> Tensor | None:  # fmt: skip
        """Run layers and head over tokens ``x``, ``[1, T, dim]``; see ``run``.

        Gives patches ``[1, T, 4 * out_dim]``; None without the flow.
        """
        student, tokens, last = self.student, inputs.read_tokens, len(self.student.blocks) - 1
        for layer, (block, m) in enumerate(zip(student.blocks, times.layers, strict=True)):
            if abandoned():
                raise ChunkAbandonedError
            arena = self.cache.arenas[layer]
            with detail("layer", layer):
                qkv = block.project(x, m)
                q = block.append(qkv, own.rotation, arena, own.plan)
                if layer == last and not keep_flow:
                    return None
                if own.meet is not None:
                    own.meet()  # the other half's keys and values are in the arena as well
                with detail("attn"):
                    if inputs.as_stored:
                        k, v = arena.k[None, :tokens], arena.v[None, :tokens]
                        attended = self.kernels.attention(q, k, v, self._scale, None)
                    else:
                        attended = self._attend(q, arena, inputs, layer)
                x, q = block.leave_self(x, attended.flatten(2), m)
                with detail("cross"):
                    attended = own.captions.attend(layer, q)
                x = block.leave_cross(x, attended.flatten(2), m)
        patches: Tensor = student.edges.head(x, *times.head, self.kernels)
        return patches

    def _divides(self, times: TimeTable) -> bool:
        """Tell whether halves of a pass's tokens, side by side, give the bits of the whole.

        Frames with times of their own are not divided.
        """
        kernels, factor = self.kernels, times.head[0]
        even = self.cache.frame_tokens % 2 == 0
        plain = kernels.name == "cpu" and divides_exactly(self.student.dtype)
        return even and plain and factor.shape[1] == 1

    def advance(
        self, levels: Sequence[int], x: Tensor, x0: Tensor, flow: Tensor, noise: Tensor
    ) -> None:
        """Finish a denoising pass.

        Args:
            levels: of each of its frames, as an index into the schedule's levels.
            x: its input; becomes that of the next step, for frames that have one.
            x0: takes its clean estimates.
            flow: what it predicted.
            noise: for all steps; entry ``s`` enters the input of a frame's step ``s``.
        """
        kernels, sigmas, first = self.kernels, self.shared.sigmas, 0
        for level, run in groupby(levels):
            part = slice(first, first := first + len(list(run)))
            _, _, step, last = self.shared.schedule.levels[level]
            own = x[:, part], flow[:, part]
            if last:
                x0[:, part] = kernels.to_x0(*own, sigmas[level])
                continue
            with annotate("renoise", step + 1):
                entering = noise[step + 1][:, part]
                x0[:, part], x[:, part] = kernels.advance(*own, entering, sigmas, level)

    def place(self, plan: PassPlan) -> None:
        """Write a plan's positions into the rotary tables, unless they are there; then run it."""
        if plan is self._placed:
            return
        self._placed = plan
        self._rotation.set(plan.positions)
        if self._read_rotation is not None and plan.read_positions is not None:
            self._read_rotation.set([place for place in plan.read_positions if place is not None])

    def inputs(self, plan: PassPlan) -> PassInputs:
        """Return the inputs of a plan's passes."""
        frame_tokens, model, rotated = self.cache.frame_tokens, self.config.model, None
        tokens = plan.reads[0][-1][1] * frame_tokens
        if self._read_rotation is not None and plan.read_positions is not None:
            rotated = self._read_rotation.rows[:tokens]
        dense = plan.groups is None and len(plan.reads[0]) == 1 and plan.reads[0][0][0] == 0
        return PassInputs(
            plan=plan,
            rotation=self._rotation.rows[: len(plan.writes) * frame_tokens],
            read_rotation=rotated,
            read_tokens=tokens,
            spans=None if dense else _spans(plan, model.num_layers, model.num_heads, frame_tokens),
            as_stored=dense and rotated is None and not self.kernels.arena.keys_in_8_bits,
        )

    def latents(self, *leading: int) -> Tensor:
        """Return zeros ``[*leading, C, h, w]``."""
        model = self.config.model
        shape = (*leading, model.in_dim, model.latent_height, model.latent_width)
        return torch.zeros(shape, dtype=self.student.dtype, device=self.device)

    def close(self) -> None:
        """Drop the caches, and this film's hold on the weights; idempotent."""
        self.cache.close()
        # A session that is closed but still referenced must not keep a model's memory.
        for name in ("shared", "student"):
            vars(self).pop(name, None)

    def _attend(self, q: Tensor, arena: KVArena, inputs: PassInputs, layer: int) -> Tensor:
        """Attend to keys that are rotated now or in 8 bits, or to some of them only."""
        keys, values = arena.prefix(inputs.read_tokens)
        if inputs.read_rotation is not None:
            keys = self.kernels.rotate(keys, inputs.read_rotation)
        spans = None if inputs.spans is None else inputs.spans[layer]
        if spans is not None:
            return self.kernels.history_attention(q, keys, values, self._scale, spans)
        return self.kernels.attention(q, keys, values, self._scale, None)

    def _table(self, frames: int, plain_frames: int = 0) -> RotaryTable:
        return RotaryTable(
            self.config.model,
            frames,
            shot_phase=self.config.shot.shot_phase,
            device=self.device,
            plain_frames=plain_frames,
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


def _spans(plan: PassPlan, layers: int, heads: int, frame_tokens: int) -> list[HeadSpans | None]:
    """By layer, the tokens each head reads; ``None`` where all heads read one whole prefix."""
    tokens = [
        [(begin * frame_tokens, end * frame_tokens) for begin, end in ranges]
        for ranges in plan.reads
    ]
    groups = plan.groups or ((0,) * heads,) * layers
    dense = len(plan.reads[0]) == 1 and plan.reads[0][0][0] == 0
    return [None if dense and not any(own) else [tokens[group] for group in own] for own in groups]
