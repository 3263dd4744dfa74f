"""The eager backend: the student's blocks run one after the other on any device; the oracle.

It is the model plus a ``KernelSet``: with the reference set on the CPU it defines what is correct,
with the ``cpu`` set it is the fast path of machines without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cache import CaptionCache, CaptionKV, fold_padding
from ..kernels.reference.renoise import renoise, to_x0
from ..model.blocks import BoundBlock, CrossAttend
from ..schedule import Schedule
from .base import BackendInfo
from .passes import PassRunner, PlannedPass

if TYPE_CHECKING:
    from .._native import ChunkPlan, ContextPlan
    from ..config import StreamConfig
    from ..kernels.kernel_set import KernelSet
    from ..model.captions import CaptionSet
    from ..model.student import Student


class EagerBackend:
    """Runs planned passes with plain calls.

    Args:
        student: the network, on its device and in its type.
        config: shapes, cache and schedule.
        kernels: which maths.
    """

    def __init__(self, student: Student, config: StreamConfig, kernels: KernelSet) -> None:
        self.runner = PassRunner(student, config, kernels)
        self.student, self.cache = self.runner.student, self.runner.cache
        self.device, self.dtype = self.runner.device, self.runner.dtype
        self.schedule = Schedule.from_config(config.schedule)
        self._captions = CaptionCache()
        self._planned: tuple[ChunkPlan, int, PlannedPass] | None = None
        with torch.inference_mode():
            for time in (*self.schedule.timesteps, 0.0, self.schedule.commit_timestep):
                self.runner.time_table(time)

    @property
    def info(self) -> BackendInfo:
        """What was resolved."""
        return BackendInfo(
            name="eager",
            kernel_set=self.runner.kernels.name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            cache_bytes=self.cache.nbytes,
            weight_bytes=sum(p.nbytes for p in self.student.parameters()),
        )

    @torch.inference_mode()
    def set_captions(self, captions: CaptionSet) -> None:
        """See ``StudentBackend.set_captions``."""
        embeddings = captions.embeddings.to(self.device, self.dtype)
        folded = fold_padding(embeddings, captions.lengths)
        texts = [(self.student.embed_text(rows[None]), bias) for rows, bias in folded]
        self._captions = CaptionCache(
            [[self._caption_kv(block, *text) for text in texts] for block in self.runner.blocks]
        )

    @torch.inference_mode()
    def encode_context(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> None:
        """See ``StudentBackend.encode_context``."""
        self.runner.run(latents, 0.0, self._context_pass(plan, rows), keep_flow=False)

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
        self.runner.run(x0, time, self._chunk_pass(plan, row), keep_flow=False)

    @torch.inference_mode()
    def predict_flow(self, time: float, plan: ChunkPlan, row: int, x: Tensor) -> Tensor:
        """Run a chunk pass at any time; returns flow like ``x``."""
        flow = self.runner.run(x, time, self._chunk_pass(plan, row), keep_flow=True)
        assert flow is not None
        return flow

    @torch.inference_mode()
    def context_flow(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> Tensor:
        """Run the whole context pass, head included, which only parity checks need."""
        flow = self.runner.run(latents, 0.0, self._context_pass(plan, rows), keep_flow=True)
        assert flow is not None
        return flow

    def close(self) -> None:
        """Drop caches and tables."""
        self._captions, self._planned = CaptionCache(), None
        self.runner.close()

    def _caption_kv(self, block: BoundBlock, text: Tensor, bias: Tensor) -> CaptionKV:
        """One layer's caption keys, in the memory order that the kernels' attention wants."""
        k, v = block.caption_kv(text)
        if self.runner.kernels.head_major:
            k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
        return CaptionKV(k, v, bias)

    def _context_pass(self, plan: ContextPlan, rows: Sequence[int]) -> PlannedPass:
        return PlannedPass(
            slots=plan.slots,
            valid_frames=plan.valid_frames,
            rotation=self.runner.context_rotation(plan),
            read_rotation=None,
            cross=lambda layer: self._cross(layer, rows),
        )

    def _chunk_pass(self, plan: ChunkPlan, row: int) -> PlannedPass:
        """The pass of a chunk; its steps share one plan, so the tables are made once."""
        if self._planned is None or self._planned[0] is not plan or self._planned[1] != row:
            rows = [row] * len(plan.positions)
            planned = PlannedPass(
                slots=plan.write_slots,
                valid_frames=plan.valid_frames,
                rotation=self.runner.chunk_rotation(plan),
                read_rotation=self.runner.read_rotation(plan),
                cross=lambda layer: self._cross(layer, rows),
            )
            self._planned = plan, row, planned
        return self._planned[2]

    def _cross(self, layer: int, rows: Sequence[int]) -> CrossAttend:
        """Cross-attention in which every run of frames attends to its own caption."""
        captions, attention = self._captions.layers[layer], self.runner.kernels.attention
        frame_tokens, scale = self.cache.frame_tokens, self.runner.scale
        runs = [(row, len(list(group))) for row, group in groupby(rows)]

        def cross(q: Tensor) -> Tensor:
            parts, start = [], 0
            for row, frames in runs:
                end = start + frames * frame_tokens
                caption = captions[row]
                part = attention(q[:, start:end], caption.k, caption.v, scale, caption.bias)
                parts.append(part)
                start = end
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

        return cross
