"""The captured backend: every pass of a shot recorded once as a CUDA graph and replayed.

A graph bakes in addresses and the plan's integers (slots, valid length); everything else that
changes between chunks and shots is data in static buffers: latents, noise, rotary tables, caption
keys and which caption a context frame attends to. So one graph per (pass, place in the ring) serves
a whole film, and all of them are captured at open.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cache import fold_padding
from ..model.blocks import CrossAttend
from ..model.captions import CaptionSet
from ..noise import PhiloxNoise
from ..plans import planner_of
from ..transfer import send
from .passes import PassRunner

if TYPE_CHECKING:
    from .._native import ChunkPlan, ContextPlan
    from ..config import ModelConfig, StreamConfig
    from ..kernels.kernel_set import KernelSet
    from ..model.student import Student

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]
"""Records a function that reads and writes static buffers only; gives its replay."""


class GraphCapture:
    """Captures on a CUDA device; all graphs share one memory pool, for they never overlap.

    What a function runs must have run before: libraries choose and load their kernels in a first
    run, and a capture allows neither.

    Args:
        device: where graphs are replayed.
        urgent: the device prefers their kernels; a kernel in a graph has the priority of the
            stream it was captured on, not of the one it is replayed on.
    """

    def __init__(self, device: torch.device, *, urgent: bool = False) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1 if urgent else 0)
        self._pool = torch.cuda.graph_pool_handle()
        # A graph that is freed during a capture would spoil it.
        gc.collect()
        torch.cuda.synchronize(device)

    def __call__(self, function: Callable[[], None]) -> Replay:
        """Record ``function``."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                function()
            finally:
                graph.capture_end()
        return graph.replay


@dataclass(frozen=True, slots=True, eq=False)
class StaticCaptions:
    """Caption keys and values of every layer in memory that never moves.

    Attributes:
        k: ``[layers, captions, text_len, N, D]``.
        v: like ``k``.
        bias: float32 ``[captions, text_len]``; ``-inf`` hides a position, the log of a
            count stands for folded padding.
    """

    k: Tensor
    v: Tensor
    bias: Tensor

    @classmethod
    def allocate(
        cls, model: ModelConfig, captions: int, dtype: torch.dtype, device: torch.device
    ) -> StaticCaptions:
        """Make room for some captions."""
        shape = (model.num_layers, captions, model.text_len, model.num_heads, model.head_dim)
        k, v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(k, v, torch.zeros(captions, model.text_len, device=device))

    def take(self, other: StaticCaptions, row: int) -> None:
        """Copy one caption of ``other``; room is for one."""
        self.k.copy_(other.k[:, row : row + 1])
        self.v.copy_(other.v[:, row : row + 1])
        self.bias.copy_(other.bias[row : row + 1])


class CudaGraphBackend:
    """Replays captured passes.

    Args:
        student: the network, on its device and in its type.
        config: shapes, cache and schedule.
        kernels: which maths; must be capturable.
        capture: how passes are recorded; default: as CUDA graphs.
    """

    def __init__(
        self,
        student: Student,
        config: StreamConfig,
        kernels: KernelSet,
        capture: Capture | None = None,
    ) -> None:
        self.runner = PassRunner(student, config, kernels)
        self.student, self.cache = self.runner.student, self.runner.cache
        self.device, self.dtype = self.runner.device, self.runner.dtype
        self.schedule, self.noise = self.runner.schedule, self.runner.noise
        self.info = self.runner.info("cuda_graph")
        self._graphs: dict[tuple[object, ...], Replay] = {}
        self._x, self._x0, self._context = (
            self.runner.latents(1, frames)
            for frames in (*[config.shot.chunk_frames] * 2, config.cache.context_frames)
        )
        context_frames = config.cache.context_frames
        self._rows = torch.zeros(context_frames, dtype=torch.int64, device=self.device)
        self._captions, self._caption = (
            StaticCaptions.allocate(config.model, count, self.dtype, self.device)
            for count in (context_frames + 1, 1)
        )
        self._row: int | None = None
        with torch.inference_mode():
            self._record(config, capture or GraphCapture(self.device))
        self._warm_up(config.model)

    @torch.inference_mode()
    def set_captions(self, captions: CaptionSet) -> None:
        """See ``StudentBackend.set_captions``."""
        static = self._captions
        embeddings = send(captions.embeddings, self.device).to(self.dtype)
        for row, (rows, bias) in enumerate(fold_padding(embeddings, captions.lengths)):
            kept = len(rows)
            static.bias[row, :kept] = bias
            static.bias[row, kept:].fill_(-torch.inf)
            text = self.student.embed_text(rows[None])
            for layer, block in enumerate(self.runner.blocks):
                k, v = block.caption_kv(text)
                static.k[layer, row, :kept] = k[0]
                static.v[layer, row, :kept] = v[0]
        self._row = None

    @torch.inference_mode()
    def encode_context(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> None:
        """See ``StudentBackend.encode_context``."""
        self._context.copy_(latents)
        self._rows.copy_(send(torch.tensor(rows), self.device))
        self.runner.context_rotation.set(plan.positions, plan.flags)
        self._graphs[("context",)]()

    @torch.inference_mode()
    def denoise(self, step: int, plan: ChunkPlan, row: int) -> Tensor:
        """See ``StudentBackend.denoise``."""
        self._replay(step, plan, row)
        return self._x0

    @torch.inference_mode()
    def commit(self, plan: ChunkPlan, row: int, x0: Tensor) -> None:
        """See ``StudentBackend.commit``."""
        if x0 is not self._x0:
            self._x0.copy_(x0)
        self._replay("commit", plan, row)

    def close(self) -> None:
        """Drop graphs, caches and tables."""
        self._graphs.clear()
        self.runner.close()

    def _record(self, config: StreamConfig, capture: Capture) -> None:
        """Capture the context pass, and every pass of every chunk place in the ring."""
        planner = planner_of(config)
        if config.cache.context_frames:
            encode = self._context_function(planner.context([0] * config.cache.context_frames))
            encode()
            self._graphs[("context",)] = capture(encode)
        chunk = 0
        while self._key(0, plan := planner.chunk(0, chunk, 0)) not in self._graphs:
            for step in (*range(config.schedule.num_steps), "commit"):
                run = self._chunk_function(step, plan)
                # A place's passes share the kernels for its valid length; steps have their own.
                if chunk == 0 or step == 0:
                    run()
                self._graphs[self._key(step, plan)] = capture(run)
            chunk += 1

    def _warm_up(self, model: ModelConfig) -> None:
        """Compile and load what runs outside of graphs: captions and noise."""
        blank = torch.zeros(1, model.text_len, model.text_dim)
        self.set_captions(CaptionSet(embeddings=blank, lengths=(model.text_len,)))
        PhiloxNoise(0).draw(0, 0, 0, self._x.shape, self.device)

    def _context_function(self, plan: ContextPlan) -> Callable[[], None]:
        planned = self.runner.context_pass(plan, self._cross_context)

        def encode() -> None:
            self.runner.run(self._context, 0.0, planned, keep_flow=False)

        return encode

    def _chunk_function(self, step: int | str, plan: ChunkPlan) -> Callable[[], None]:
        planned = self.runner.chunk_pass(plan, self._cross_chunk)

        def commit() -> None:
            time = self.schedule.commit_timestep
            self.runner.run(self._x0, time, planned, keep_flow=False)

        if isinstance(step, str):
            return commit
        x = self._x if step else self.noise[0]

        def denoise() -> None:
            flow = self.runner.run(x, self.schedule.timesteps[step], planned, keep_flow=True)
            assert flow is not None
            x0, following = self.runner.finish_step(step, x, flow)
            self._x0.copy_(x0)
            self._x.copy_(following)

        return denoise

    def _cross_context(self, layer: int) -> CrossAttend:
        """Cross-attention whose captions are looked up by a device index, one per frame."""
        static, attend, rows = self._captions, self.runner.kernels.cross_attention, self._rows

        def cross(q: Tensor) -> Tensor:
            per_frame: Tensor = q[0].unflatten(0, (len(rows), -1))
            k, v = static.k[layer].index_select(0, rows), static.v[layer].index_select(0, rows)
            bias = static.bias.index_select(0, rows)[:, None, None]
            out = attend(per_frame, k, v, self.runner.scale, bias)
            return out.flatten(0, 1).unsqueeze(0)

        return cross

    def _cross_chunk(self, layer: int) -> CrossAttend:
        """Cross-attention to the caption at hand."""
        static, attend = self._caption, self.runner.kernels.cross_attention
        k, v, bias = static.k[layer], static.v[layer], static.bias[0]
        return lambda q: attend(q, k, v, self.runner.scale, bias)

    def _replay(self, step: int | str, plan: ChunkPlan, row: int) -> None:
        self.runner.place(plan)
        if row != self._row:
            self._caption.take(self._captions, row)
            self._row = row
        self._graphs[self._key(step, plan)]()

    @staticmethod
    def _key(step: int | str, plan: ChunkPlan) -> tuple[object, ...]:
        """What a graph bakes in."""
        return step, tuple(plan.write_slots), plan.valid_frames
