"""One forward pass over a film's dual cache, and the film whose passes are plain calls.

``PassInputs`` holds a plan's integers and the tensors made from them; ``PassRunner`` runs it, for
every torch backend. Nothing in a run allocates caches, reads a tensor on the host or branches on
its values, so a run can be captured once and replayed with other tensors in the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..abandonment import Abandoned, ChunkAbandonedError, never
from ..config import ModelConfig
from ..device.transfer import send
from ..kernels.cpu.instructions import divides_exactly
from ..kernels.reference.rope_shot import SHOT_PHASE_RAD, axis_frequencies, rope_angles, rotation
from ..model.blocks import fold_patches
from ..nvtx import annotate, detail
from ..plan.policy import PassPlan, RolloutPolicy, RotaryPosition
from ..plan.schedule import COMMIT
from .cache import CachedFilm, DualKVCache, KVArena
from .cross_attention import CaptionKV, CaptionProducts, CaptionRuns, Captions, caption_kv
from .pass_inputs import ChunkLatents, PassInputs, in_halves, spans_of

if TYPE_CHECKING:
    from ..device.companion import Companion
    from ..model.bound_student import TimeTable
    from ..model.captions import CaptionSet
    from .tabulated_student import TabulatedStudent


class RotaryTable:
    """The rotation of some latent frames, in memory that never moves: captured passes read it.

    Row and column pairs have the same angles in every plan; only the time pairs change. Those are a
    few numbers per frame, computed on the host in float64 and sent without waiting.

    Args:
        model: grid and head size.
        frames: frames that are rotated.
        shot_phase: whether shot flags add a phase to the time pairs.
        device: where it lives.
        plain_frames: frames in front that are not rotated.

    Attributes:
        rows: complex64 ``[(plain_frames + frames) * frame tokens, D / 2]``.
    """

    def __init__(
        self, model: ModelConfig, frames: int, *, shot_phase: bool, device: torch.device,
        plain_frames: int = 0,
    ) -> None:  # fmt: skip
        self._frequencies = axis_frequencies(model.head_dim)[0]
        self._phase_rad = SHOT_PHASE_RAD if shot_phase else 0.0
        still = rotation(rope_angles([0.0], [0.0], model.grid, model.head_dim))
        plain = torch.ones_like(still).repeat(plain_frames, 1)
        self.rows = torch.cat([plain, still.repeat(frames, 1)]).to(device)
        turning = self.rows[len(plain) :].unflatten(0, (frames, len(still)))
        self._time = turning[..., : len(self._frequencies)]

    def set(self, positions: Sequence[RotaryPosition]) -> None:
        """Set the rotation of the first frames, one at each position."""
        frames, flags = torch.tensor(positions, dtype=torch.float64).unsqueeze(-1).unbind(1)
        angles = frames * self._frequencies + flags * self._phase_rad
        turns = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
        if self.rows.is_cuda:
            turns = send(turns, self.rows.device)
        self._time[: len(positions)] = turns.unsqueeze(1)


class PassRunner:
    """One film's caches and rotary tables, and the passes over them.

    ``inputs`` puts a plan's positions into the tables, ``run`` runs a pass with them, and
    ``advance`` makes the next step's input of what the pass predicted. Latents, predicted flows and
    clean estimates ``x0`` are ``[1, F, C, h, w]`` for the plan's frames, in any float type as they
    go in.

    Args:
        shared: weights and tables.
        policy: plans the passes; says how large the arenas are.

    Attributes:
        device: where passes run.
        dtype: of latents.
        abandoned: asked before each layer; ``ChunkAbandonedError`` if it says yes.
        companion: computes half of a pass, where that gives the same bits; None for nobody.
    """

    def __init__(self, shared: TabulatedStudent, policy: RolloutPolicy) -> None:
        self.shared, self.student, self.config = shared, shared.student, shared.config
        self.kernels, self.device = self.student.kernels, self.student.device
        self.dtype, model = self.student.dtype, self.config.model
        self._scale, self._grid = model.head_dim**-0.5, model.grid
        self.abandoned: Abandoned = never
        self.companion: Companion | None = None
        self.cache: DualKVCache = DualKVCache(
            model, policy.arena_frames, layout=self.kernels.arena, dtype=self.dtype,
            device=self.device, scales=shared.arena_scales,
        )  # fmt: skip
        self._rotation = self._table(policy.arena_frames)
        self._read_rotation: RotaryTable | None = None
        positions = policy.chunk(0, 0, 0).read_positions
        if positions is not None:
            # Slots that hold rotated keys come first, and are the same in every chunk.
            rotated = positions.count(None)
            self._read_rotation = self._table(policy.arena_frames - rotated, plain_frames=rotated)
        self._placed: PassPlan | None = None

    def place(self, plan: PassPlan) -> None:
        """Write a plan's positions into the rotary tables, unless they are there."""
        if plan is self._placed:
            return
        self._placed = plan
        self._rotation.set(plan.positions)
        if self._read_rotation is not None and plan.read_positions is not None:
            self._read_rotation.set([place for place in plan.read_positions if place is not None])

    def inputs(self, plan: PassPlan, levels: tuple[int, ...], captions: Captions) -> PassInputs:
        """Place a plan, and return the inputs of a pass of it; arguments: see ``PassInputs``."""
        self.place(plan)
        shared, tokens, end = self.shared, self.cache.frame_tokens, plan.reads[0][-1][1]
        same = levels.count(levels[0]) == len(levels)
        inputs = PassInputs(
            plan=plan, levels=levels, captions=captions, keep_flow=levels[0] >= 0,
            times=shared.tables[levels[0]] if same else shared.mixed_times(levels),
            rotation=self._rotation.rows[: len(plan.writes) * tokens], read_tokens=end * tokens,
        )  # fmt: skip
        apart = plan.groups or plan.read_positions or plan.reads != (((0, end),),)
        if apart or self.kernels.arena.keys_in_8_bits:
            inputs = self._read_otherwise(inputs)
        return inputs

    def run(self, latents: Tensor, inputs: PassInputs) -> Tensor | None:
        """Run a pass, which leaves keys and values in the planned slots; give the flow, if any."""
        edges, plan = self.student.edges, inputs.plan
        x: Tensor = edges.patch_embedding(latents)
        if edges.cache_indicator is not None:
            x = edges.tell_context(x, x.shape[1] if plan.chunk is None else 0)
        if self.companion is not None and self._divides(inputs.times):
            patches = in_halves(self.companion, self._layers, x, inputs)
        else:
            patches = self._layers(x, inputs)
        return None if patches is None else fold_patches(patches, self._grid)

    def _layers(self, x: Tensor, inputs: PassInputs) -> Tensor | None:
        """Run layers and head over tokens ``[1, T, dim]``: patches ``[1, T, 4 * out_dim]``."""
        student, times, tokens = self.student, inputs.times, inputs.read_tokens
        for layer, (block, m) in enumerate(zip(student.blocks, times.layers, strict=True)):
            if self.abandoned():
                raise ChunkAbandonedError
            arena = self.cache.arenas[layer]
            with detail("layer", layer):
                q = block.append(block.project(x, m), inputs.rotation, arena, inputs.plan)
                if block is student.blocks[-1] and not inputs.keep_flow:
                    return None
                if inputs.meet is not None:
                    inputs.meet()  # the other half's keys and values are in the arena as well
                with detail("attn"):
                    if inputs.as_stored:
                        k, v = arena.k[None, :tokens], arena.v[None, :tokens]
                        attended = self.kernels.attention(q, k, v, self._scale, None)
                    else:
                        attended = self._attend(q, arena, inputs, layer)
                x, q = block.leave_self(x, attended.flatten(2), m)
                with detail("cross"):
                    attended = inputs.captions.attend(layer, q)
                x = block.leave_cross(x, attended.flatten(2), m)
        patches: Tensor = student.edges.head(x, *times.head, self.kernels)
        return patches

    def advance(self, inputs: PassInputs, flow: Tensor | None, latents: ChunkLatents) -> None:
        """Finish a denoising pass over ``x``: set ``x0``, and ``x`` of frames with a next step.

        Args:
            inputs: of the pass.
            flow: what it predicted.
            latents: ``x`` is what it was over.
        """
        assert flow is not None, "a clean pass"
        x, x0, sigmas, first = latents.x, latents.x0, self.shared.sigmas, 0
        for level, run in groupby(inputs.levels):
            part = slice(first, first := first + len(list(run)))
            _, _, step, last = self.shared.schedule.levels[level]
            own = x[:, part], flow[:, part]
            if last:
                x0[:, part] = self.kernels.to_x0(*own, sigmas[level])
                continue
            with annotate("renoise", step + 1):
                noise = latents.noise[step + 1][:, part]
                x0[:, part], x[:, part] = self.kernels.advance(*own, noise, sigmas, level)

    def latents(self, *leading: int) -> Tensor:
        """Return zeros ``[*leading, C, h, w]``."""
        model = self.config.model
        shape = (*leading, model.in_dim, model.latent_height, model.latent_width)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def close(self) -> None:
        """Drop the caches, and this film's hold on the weights; idempotent."""
        self.cache.close()
        # A session that is closed but still referenced must not keep a model's memory.
        for name in ("shared", "student"):
            vars(self).pop(name, None)

    def _read_otherwise(self, inputs: PassInputs) -> PassInputs:
        """Tell how keys are read that are rotated now or in 8 bits, or by some heads only."""
        plan, rotated = inputs.plan, None
        if self._read_rotation is not None and plan.read_positions is not None:
            rotated = self._read_rotation.rows[: inputs.read_tokens]
        spans = spans_of(plan, self.config.model, self.cache.frame_tokens)
        return replace(inputs, as_stored=False, read_rotation=rotated, spans=spans)

    def _attend(self, q: Tensor, arena: KVArena, inputs: PassInputs, layer: int) -> Tensor:
        """Attend to keys that are rotated now or in 8 bits, or to some of them only."""
        keys, values = arena.prefix(inputs.read_tokens)
        if inputs.read_rotation is not None:
            keys = self.kernels.rotate(keys, inputs.read_rotation)
        spans = None if inputs.spans is None else inputs.spans[layer]
        if spans is not None:
            return self.kernels.history_attention(q, keys, values, self._scale, spans)
        return self.kernels.attention(q, keys, values, self._scale, None)

    def _divides(self, times: TimeTable) -> bool:
        """Tell whether halves of a pass's tokens, side by side, give the bits of the whole.

        Frames with times of their own are not divided.
        """
        kernels, factor = self.kernels, times.head[0]
        even = self.cache.frame_tokens % 2 == 0
        plain = kernels.name == "cpu" and divides_exactly(self.dtype)
        return even and plain and factor.shape[1] == 1

    def _table(self, frames: int, plain_frames: int = 0) -> RotaryTable:
        phase = self.config.shot.shot_phase
        return RotaryTable(
            self.config.model, frames, shot_phase=phase, device=self.device,
            plain_frames=plain_frames,
        )  # fmt: skip


class EagerFilm(PassRunner, CachedFilm):
    """One film whose passes are plain calls; see ``FilmState`` and ``AccompaniedFilm``.

    Args:
        shared: weights and tables.
        policy: plans the passes; says how large the arenas are.
    """

    def __init__(self, shared: TabulatedStudent, policy: RolloutPolicy) -> None:
        super().__init__(shared, policy)
        self._captions: list[CaptionKV] = []
        self._products = CaptionProducts(
            partial(caption_kv, self.student), kept=self.config.cache.context_frames + 2
        )
        self._plan: PassPlan | None = None
        self._latents, self._caption = _no_latents(), 0

    @torch.inference_mode()
    def prepare_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._products.of(captions)

    @torch.inference_mode()
    def change_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._captions = self._products.of(captions)

    begin_shot = change_captions

    @torch.inference_mode()
    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        """See ``FilmState.encode_context``; arguments as there."""
        shown: Captions = self._captions[captions[0]]
        if captions.count(captions[0]) < len(captions):
            shown = CaptionRuns(self._captions, captions)
        self.run(latents, self.inputs(plan, plan.levels[0], shown))

    @torch.inference_mode()
    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        """See ``FilmState.begin_chunk``; arguments as there."""
        before, x = self._latents.x, noise[0].clone()
        if plan.carried:
            x[:, : plan.carried] = before[:, before.shape[1] - plan.carried :]
        self._latents = ChunkLatents(x=x, x0=torch.empty_like(x), noise=noise)
        self._plan, self._caption = plan, caption

    @torch.inference_mode()
    def denoise(self, step: int) -> Tensor:
        """See ``FilmState``."""
        plan, caption = self._plan, self._captions[self._caption]
        assert plan is not None, "a pass before begin_chunk"
        inputs = self.inputs(plan, plan.levels[step], caption)
        self.advance(inputs, self.run(self._latents.x, inputs), self._latents)
        return self._latents.x0

    @torch.inference_mode()
    def commit(self) -> None:
        """See ``FilmState``."""
        plan, caption = self._plan, self._captions[self._caption]
        assert plan is not None, "a pass before begin_chunk"
        clean = plan.clean or plan
        inputs = self.inputs(clean, (COMMIT,) * clean.frames, caption)
        self.run(self._latents.x0[:, : clean.frames], inputs)

    @torch.inference_mode()
    def chunk_flow(self, time: float, x: Tensor) -> Tensor:
        """Run a pass over the chunk begun, at any time; for parity checks.

        Args:
            time: timestep in [0, 1000].
            x: ``[1, F, C, h, w]``.

        Returns:
            The predicted flow, like ``x``.
        """
        plan, caption = self._plan, self._captions[self._caption]
        assert plan is not None, "a pass before begin_chunk"
        inputs = self.inputs(plan, plan.levels[0], caption)
        flow = self.run(x, replace(inputs, times=self.student.time_table(time)))
        assert flow is not None
        return flow

    @torch.inference_mode()
    def context_flow(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> Tensor:
        """Run the whole context pass, head included; for parity checks.

        Args:
            plan: as for ``encode_context``.
            captions: likewise.
            latents: likewise.

        Returns:
            The predicted flow, like ``latents``.
        """
        inputs = self.inputs(plan, plan.levels[0], CaptionRuns(self._captions, captions))
        flow = self.run(latents, replace(inputs, keep_flow=True))
        assert flow is not None
        return flow

    def close(self) -> None:
        """Drop the caches."""
        self._captions, self._plan, self._latents = [], None, _no_latents()
        self._products.clear()
        super().close()


def _no_latents() -> ChunkLatents:
    empty = torch.empty(0, device="cpu")
    return ChunkLatents(x=empty, x0=empty, noise=empty)
