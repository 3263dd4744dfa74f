"""The captured backend: every pass of a shot recorded once as a CUDA graph and replayed.

A graph bakes in addresses and the plan's integers (slots, valid length); everything else that
changes between chunks and shots is data in static buffers: latents, rotary tables, caption keys and
which caption a frame attends to. So one graph per (pass, place in the ring) serves a whole film,
and all of them are captured at open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import _native
from ..kernels.reference.renoise import renoise, to_x0
from ..model.blocks import CrossAttend
from ..schedule import Schedule
from .base import BackendInfo
from .passes import PassRunner, PlannedPass

if TYPE_CHECKING:
    from .._native import ChunkPlan, ContextPlan
    from ..config import StreamConfig
    from ..kernels.kernel_set import KernelSet
    from ..model.captions import CaptionSet
    from ..model.student import Student

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]
"""Records a function that reads and writes static buffers only; gives its replay."""

_WARM_UP = 2
"""Runs before a capture: libraries choose and load their kernels in the first ones."""


class GraphCapture:
    """Captures on a CUDA device; all graphs share one memory pool, for they never overlap."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], None]) -> Replay:
        """Warm up and record ``function``."""
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                function()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            function()
        return graph.replay


@dataclass(frozen=True, slots=True, eq=False)
class StaticCaptions:
    """Caption keys and values of every layer in memory that never moves.

    Attributes:
        k: ``[layers, rows, text_len, N, D]``.
        v: like ``k``.
        bias: ``[rows, text_len]``; ``-inf`` hides a position, the log of a count stands for folded
            padding.
    """

    k: Tensor
    v: Tensor
    bias: Tensor


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
        self.schedule = Schedule.from_config(config.schedule)
        self._steps = config.schedule.num_steps
        self._graphs: dict[tuple[object, ...], Replay] = {}
        with torch.inference_mode():
            self._allocate(config)
            self._record(config, capture or GraphCapture(self.device))

    @property
    def info(self) -> BackendInfo:
        """What was resolved."""
        return BackendInfo(
            name="cuda_graph",
            kernel_set=self.runner.kernels.name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            cache_bytes=self.cache.nbytes,
            weight_bytes=sum(p.nbytes for p in self.student.parameters()),
        )

    @torch.inference_mode()
    def set_captions(self, captions: CaptionSet) -> None:
        """See ``StudentBackend.set_captions``."""
        static = self._captions
        text_len = static.bias.shape[1]
        embeddings = captions.embeddings.to(self.device, self.dtype)
        for row, length in enumerate(captions.lengths):
            kept = min(length + 1, text_len)
            static.bias[row] = -torch.inf
            static.bias[row, :kept] = 0
            if length < text_len:
                static.bias[row, length] = torch.tensor(float(text_len - length)).log()
            text = self.student.embed_text(embeddings[row : row + 1, :kept])
            for layer, block in enumerate(self.runner.blocks):
                k, v = block.caption_kv(text)
                static.k[layer, row, :kept] = k[0]
                static.v[layer, row, :kept] = v[0]

    @torch.inference_mode()
    def encode_context(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> None:
        """See ``StudentBackend.encode_context``."""
        self._context.copy_(latents)
        self._context_rotation.copy_(self.runner.context_rotation(plan))
        self._context_rows.copy_(torch.tensor(rows))
        self._graphs[("context",)]()

    @torch.inference_mode()
    def denoise(self, step: int, plan: ChunkPlan, row: int, x: Tensor) -> Tensor:
        """See ``StudentBackend.denoise``."""
        if step == 0:
            self._set_tables(plan, row)
        if x is not self._x:
            self._x.copy_(x)
        self._replay(step, plan)
        return self._x0

    @torch.inference_mode()
    def renoise(self, step: int, x0: Tensor, noise: Tensor) -> Tensor:
        """See ``StudentBackend.renoise``."""
        return self._x.copy_(renoise(x0, noise, self.schedule.sigmas[step]))

    @torch.inference_mode()
    def commit(self, plan: ChunkPlan, row: int, x0: Tensor) -> None:
        """See ``StudentBackend.commit``."""
        self._set_tables(plan, row)
        if x0 is not self._x0:
            self._x0.copy_(x0)
        self._replay("commit", plan)

    def close(self) -> None:
        """Drop graphs, caches and tables."""
        self._graphs.clear()
        self.runner.close()

    def _allocate(self, config: StreamConfig) -> None:
        """Make every buffer that a graph reads or writes."""
        model, tokens, context = config.model, self.cache.frame_tokens, config.cache.context_frames
        chunk = config.shot.chunk_frames
        frame = (model.in_dim, model.latent_height, model.latent_width)

        def zeros(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        def table(frames: int) -> Tensor:
            return zeros(frames * tokens, model.head_dim // 2, dtype=torch.complex64)

        self._context = zeros(1, context, *frame)
        self._x, self._x0 = zeros(1, chunk, *frame), zeros(1, chunk, *frame)
        self._context_rotation, self._rotation = table(context), table(chunk)
        self._read_rotation = None
        if config.cache.key_rotation == "on_read":
            self._read_rotation = table(config.arena_frames)
        self._context_rows = zeros(context, dtype=torch.int64)
        self._row = zeros(1, dtype=torch.int64)
        rows = context + 1
        shape = (model.num_layers, rows, model.text_len, model.num_heads, model.head_dim)
        self._captions = StaticCaptions(zeros(*shape), zeros(*shape), zeros(rows, model.text_len))

    def _record(self, config: StreamConfig, capture: Capture) -> None:
        """Capture the context pass, and every pass of every chunk place in the ring."""
        planner = _native.Planner(
            context_frames=config.cache.context_frames,
            chunk_frames=config.shot.chunk_frames,
            shot_frames=config.shot.shot_frames,
            sink_frames=config.cache.sink_frames,
            window_frames=config.cache.window_frames or 0,
            rotate_on_read=config.cache.key_rotation == "on_read",
            shot_phase=config.shot.shot_phase,
        )
        for time in (*self.schedule.timesteps, 0.0, self.schedule.commit_timestep):
            self.runner.time_table(time)
        plan = planner.context([0] * config.cache.context_frames)
        self._graphs[("context",)] = capture(self._context_function(plan))
        chunk = 0
        while self._key(0, chunk_plan := planner.chunk(0, chunk, 0)) not in self._graphs:
            for step in (*range(self._steps), "commit"):
                function = self._chunk_function(step, chunk_plan)
                self._graphs[self._key(step, chunk_plan)] = capture(function)
            chunk += 1

    def _context_function(self, plan: ContextPlan) -> Callable[[], None]:
        planned = PlannedPass(
            slots=plan.slots,
            valid_frames=plan.valid_frames,
            rotation=self._context_rotation,
            read_rotation=None,
            cross=lambda layer: self._cross(layer, self._context_rows),
        )
        return lambda: void(self.runner.run(self._context, 0.0, planned, keep_flow=False))

    def _chunk_function(self, step: int | str, plan: ChunkPlan) -> Callable[[], None]:
        valid_tokens = plan.valid_frames * self.cache.frame_tokens
        read = self._read_rotation
        planned = PlannedPass(
            slots=plan.write_slots,
            valid_frames=plan.valid_frames,
            rotation=self._rotation,
            read_rotation=None if read is None else read[:valid_tokens],
            cross=lambda layer: self._cross(layer, self._row),
        )
        if isinstance(step, str):
            time = self.schedule.commit_timestep
            return lambda: void(self.runner.run(self._x0, time, planned, keep_flow=False))
        time, sigma = self.schedule.timesteps[step], self.schedule.sigmas[step]

        def denoise() -> None:
            flow = self.runner.run(self._x, time, planned, keep_flow=True)
            assert flow is not None
            self._x0.copy_(to_x0(self._x, flow, sigma))

        return denoise

    def _cross(self, layer: int, rows: Tensor) -> CrossAttend:
        """Cross-attention whose captions are looked up by a device index, one per frame group."""
        static, attention = self._captions, self.runner.kernels.attention

        def cross(q: Tensor) -> Tensor:
            groups = len(rows)
            per_group: Tensor = q.unflatten(1, (groups, -1))
            k, v = static.k[layer].index_select(0, rows), static.v[layer].index_select(0, rows)
            bias = static.bias.index_select(0, rows)[:, None, None]
            out = attention(per_group.squeeze(0), k, v, self.runner.scale, bias)
            return out.flatten(0, 1).unsqueeze(0)

        return cross

    def _set_tables(self, plan: ChunkPlan, row: int) -> None:
        self._rotation.copy_(self.runner.chunk_rotation(plan))
        read = self.runner.read_rotation(plan)
        if self._read_rotation is not None and read is not None:
            self._read_rotation[: len(read)] = read
        self._row.fill_(row)

    def _replay(self, step: int | str, plan: ChunkPlan) -> None:
        self._graphs[self._key(step, plan)]()

    @staticmethod
    def _key(step: int | str, plan: ChunkPlan) -> tuple[object, ...]:
        """What a graph bakes in."""
        return step, tuple(plan.write_slots), plan.valid_frames


def void(_: object) -> None:
    """Drop a value: captured functions leave their results in static buffers."""
