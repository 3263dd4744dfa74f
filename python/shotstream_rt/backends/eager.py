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
from ..model.blocks import BoundBlock, CrossAttend
from ..transfer import send
from .passes import PassRunner

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
        self.schedule, self.noise = self.runner.schedule, self.runner.noise
        self.info = self.runner.info("eager")
        self._captions = CaptionCache()
        self._x = self.noise[0]

    @torch.inference_mode()
    def set_captions(self, captions: CaptionSet) -> None:
        """See ``StudentBackend.set_captions``."""
        embeddings = send(captions.embeddings, self.device).to(self.dtype)
        folded = fold_padding(embeddings, captions.lengths)
        texts = [(self.student.embed_text(rows[None]), bias) for rows, bias in folded]
        self._captions = CaptionCache(
            [[self._caption_kv(block, *text) for text in texts] for block in self.runner.blocks]
        )

    @torch.inference_mode()
    def encode_context(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> None:
        """See ``StudentBackend.encode_context``."""
        self._run_context(plan, rows, latents, keep_flow=False)

    @torch.inference_mode()
    def denoise(self, step: int, plan: ChunkPlan, row: int) -> Tensor:
        """See ``StudentBackend.denoise``."""
        x = self._x if step else self.noise[0]
        flow = self.predict_flow(self.schedule.timesteps[step], plan, row, x)
        x0, self._x = self.runner.finish_step(step, x, flow)
        return x0

    @torch.inference_mode()
    def commit(self, plan: ChunkPlan, row: int, x0: Tensor) -> None:
        """See ``StudentBackend.commit``."""
        self._run_chunk(plan, row, x0, self.schedule.commit_timestep, keep_flow=False)

    @torch.inference_mode()
    def predict_flow(self, time: float, plan: ChunkPlan, row: int, x: Tensor) -> Tensor:
        """Run a chunk pass at any time; returns flow like ``x``."""
        flow = self._run_chunk(plan, row, x, time, keep_flow=True)
        assert flow is not None
        return flow

    @torch.inference_mode()
    def context_flow(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> Tensor:
        """Run the whole context pass, head included, which only parity checks need."""
        flow = self._run_context(plan, rows, latents, keep_flow=True)
        assert flow is not None
        return flow

    def close(self) -> None:
        """Drop caches and tables."""
        self._captions = CaptionCache()
        self.runner.close()

    def _caption_kv(self, block: BoundBlock, text: Tensor, bias: Tensor) -> CaptionKV:
        """One layer's caption keys, in the memory order that the kernels' attention wants."""
        k, v = block.caption_kv(text)
        if self.runner.kernels.head_major:
            k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
        return CaptionKV(k, v, bias)

    def _run_context(
        self, plan: ContextPlan, rows: Sequence[int], latents: Tensor, *, keep_flow: bool
    ) -> Tensor | None:
        planned = self.runner.context_pass(plan, lambda layer: self._cross(layer, rows))
        return self.runner.run(latents, 0.0, planned, keep_flow=keep_flow)

    def _run_chunk(
        self, plan: ChunkPlan, row: int, x: Tensor, time: float, *, keep_flow: bool
    ) -> Tensor | None:
        rows = [row] * len(plan.positions)
        self.runner.place(plan)
        planned = self.runner.chunk_pass(plan, lambda layer: self._cross(layer, rows))
        return self.runner.run(x, time, planned, keep_flow=keep_flow)

    def _cross(self, layer: int, rows: Sequence[int]) -> CrossAttend:
        """Cross-attention in which every run of frames attends to its own caption."""
        captions, attend = self._captions.layers[layer], self.runner.kernels.cross_attention
        frame_tokens, scale = self.cache.frame_tokens, self.runner.scale
        runs = [(row, len(list(group))) for row, group in groupby(rows)]

        def cross(q: Tensor) -> Tensor:
            parts, start = [], 0
            for row, frames in runs:
                end = start + frames * frame_tokens
                caption = captions[row]
                part = attend(q[:, start:end], caption.k, caption.v, scale, caption.bias)
                parts.append(part)
                start = end
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

        return cross
