"""The captured backend: every pass of a shot recorded once as a CUDA graph and replayed.

A graph contains fixed addresses and the plan's integers (slots, what is read); everything else that
changes between chunks and shots is data in static buffers: latents, noise, rotary tables, caption
keys and which caption a context frame attends to. So one graph per (pass, position in the ring)
serves a whole film, and all of them are captured when the film is opened.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..abandonment import Abandoned, ChunkAbandonedError, never
from ..device.transfer import send
from ..model.captions import CaptionSet
from ..plan.noise import PhiloxNoise
from ..plan.policy import PassPlan, RolloutPolicy, policy_of
from ..plan.schedule import COMMIT
from .cache import CachedFilm
from .cross_attention import CaptionKV, CaptionProducts, caption_kv
from .pass_inputs import ChunkLatents
from .passes import PassRunner
from .tabulated_student import TabulatedStudent

if TYPE_CHECKING:
    from ..config import ModelConfig, StreamConfig
    from ..kernels.sets.kernel_set import KernelSet
    from ..model.bound_student import BoundStudent

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]
"""Records a function that reads and writes static buffers only, and returns what replays it."""


class GraphCapture:
    """Captures on a CUDA device; all graphs share one memory pool, as they never run at once.

    What a function runs must have run before: libraries choose and load their kernels in a first
    run, and a capture allows neither. Only one thread may capture at a time, and none may
    synchronise the device meanwhile; ``Model`` ensures that.

    Args:
        device: where graphs are replayed.
        urgent: the device prefers their kernels; a kernel in a graph has the priority of the
            stream it was captured on, not of the one it is replayed on.
    """

    def __init__(self, device: torch.device, *, urgent: bool = False) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1 if urgent else 0)
        self._pool = torch.cuda.graph_pool_handle()
        # Freeing a graph during a capture would make the capture fail.
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
class StackedCaption:
    """One caption's keys and values of all layers in one piece, so that two copies move them.

    Attributes:
        k: ``[layers, tokens, N, D]``.
        v: like ``k``.
        bias: float32 ``[tokens]``.
    """

    k: Tensor
    v: Tensor
    bias: Tensor

    @classmethod
    def of(cls, caption: CaptionKV) -> StackedCaption:
        """Join a caption's layers."""
        return cls(torch.cat(tuple(caption.k)), torch.cat(tuple(caption.v)), caption.bias)


@dataclass(frozen=True, slots=True, eq=False)
class StaticCaptions:
    """Captions' keys and values in memory that never moves, with room for the longest caption.

    Attributes:
        kernels: the kernel set to run.
        k: ``[layers, captions, text_len, N, D]``.
        v: like ``k``.
        bias: float32 ``[captions, text_len]``; ``-inf`` hides a position.
    """

    kernels: KernelSet
    k: Tensor
    v: Tensor
    bias: Tensor

    @classmethod
    def allocate(cls, student: BoundStudent, captions: int) -> StaticCaptions:
        """Make room for some captions."""
        model, device = student.config, student.device
        shape = (model.num_layers, captions, model.text_len, model.num_heads, model.head_dim)
        k, v = (torch.zeros(shape, dtype=student.dtype, device=device) for _ in range(2))
        return cls(student.kernels, k, v, torch.zeros(captions, model.text_len, device=device))

    def store(self, row: int, caption: StackedCaption) -> None:
        """Copy a caption into a row."""
        kept = len(caption.bias)
        self.bias[row, :kept] = caption.bias
        self.bias[row, kept:].fill_(-torch.inf)
        self.k[:, row, :kept] = caption.k
        self.v[:, row, :kept] = caption.v

    def take(self, other: StaticCaptions, row: int) -> None:
        """Copy one caption of ``other`` into the first row."""
        self.k.copy_(other.k[:, row : row + 1])
        self.v.copy_(other.v[:, row : row + 1])
        self.bias.copy_(other.bias[row : row + 1])

    def first(self) -> CaptionKV:
        """Return the first row, without a copy."""
        k, v = (x[:, :1].unbind(0) for x in (self.k, self.v))
        return CaptionKV(kernels=self.kernels, k=k, v=v, bias=self.bias[0])


@dataclass(frozen=True, slots=True, eq=False)
class CaptionPerFrame:
    """Frames whose captions are chosen by an index on the device.

    Attributes:
        static: all captions.
        rows: int64 ``[F]``, caption of each frame.
    """

    static: StaticCaptions
    rows: Tensor

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """See ``Captions``."""
        static, rows = self.static, self.rows
        per_frame: Tensor = q[0].unflatten(0, (len(rows), -1))
        k, v = static.k[layer].index_select(0, rows), static.v[layer].index_select(0, rows)
        bias = static.bias.index_select(0, rows)[:, None, None]
        out = static.kernels.cross_attention(per_frame, k, v, q.shape[-1] ** -0.5, bias)
        return out.flatten(0, 1).unsqueeze(0)


class CudaGraphBackend:
    """Holds weights; every film captures its own passes.

    Args:
        student: the network, bound to kernels that can be captured.
        config: shapes, cache and schedule.
        capture: makes what records one film's passes; default: CUDA graphs.
        policy: plans the passes; default: the configuration's.
    """

    records_passes = True

    def __init__(
        self,
        student: BoundStudent,
        config: StreamConfig,
        capture: Callable[[], Capture] | None = None,
        policy: RolloutPolicy | None = None,
    ) -> None:
        self._shared: TabulatedStudent | None = TabulatedStudent.of(student, config)
        self._policy = policy or policy_of(config)
        self.device, self.dtype = student.device, student.dtype
        self.info = self._shared.info("cuda_graph", self._policy.arena_frames)
        self._capture = capture or (lambda: GraphCapture(self.device))

    def new_film(self) -> CudaGraphFilm:
        """See ``StudentBackend``."""
        assert self._shared is not None, "new_film after close"
        return CudaGraphFilm(PassRunner(self._shared, self._policy), self._policy, self._capture())

    def close(self) -> None:
        """Drop the weights."""
        self._shared = None


class CudaGraphFilm(CachedFilm):
    """One film's static buffers and the graphs that were captured over them.

    Graphs hold the addresses of this film's arenas and buffers, so they belong to it and are never
    shared; weights and time tables, which they read, are the backend's and outlive them. Opening a
    film therefore captures anew: seconds at full size, and memory for what lies between kernels.

    Args:
        runner: runs the passes; used by this film only.
        policy: plans every position in the ring.
        capture: records a pass.
    """

    def __init__(self, runner: PassRunner, policy: RolloutPolicy, capture: Capture) -> None:
        self._runner, self.cache = runner, runner.cache
        self.device, self.dtype = runner.device, runner.student.dtype
        self.abandoned: Abandoned = never
        config, frames = runner.config, policy.noisy_frames
        context = config.cache.context_frames
        self._noise = runner.latents(config.schedule.most_steps, 1, frames)
        self._x, self._x0 = (runner.latents(1, frames) for _ in range(2))
        self._context = runner.latents(1, context)
        self._rows = torch.zeros(context, dtype=torch.int64, device=self.device)
        self._captions = StaticCaptions.allocate(runner.student, context + 1)
        self._chunk_caption = StaticCaptions.allocate(runner.student, 1)
        self._products = CaptionProducts(self._stacked, kept=context + 2)
        self._caption: int | None = None
        self._plan: PassPlan | None = None
        self._graphs: dict[tuple[object, ...], Replay] = {}
        with torch.inference_mode():
            self._record(policy, capture)
        self._warm_up(config.model)

    @torch.inference_mode()
    def prepare_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._products.of(captions)

    @torch.inference_mode()
    def begin_shot(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._caption = None
        self._store(captions)

    @torch.inference_mode()
    def change_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        self._store(captions)
        if self._caption is not None:
            self._chunk_caption.take(self._captions, self._caption)

    @torch.inference_mode()
    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        """See ``FilmState``.

        Args:
            plan: of the pass.
            captions: caption of each frame, as a row of the shot's captions.
            latents: the frames, ``[1, F, C, h, w]``.
        """
        rows = send(torch.tensor(captions), self.device)
        graph = self._graphs.get(_key(plan, plan.levels[0]))
        if graph is None or plan.chunk is not None:
            self._replay(self._known_function(plan, latents, rows), plan)
            return
        self._context.copy_(latents)
        self._rows.copy_(rows)
        self._replay(graph, plan)

    @torch.inference_mode()
    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        """See ``FilmState``.

        Args:
            plan: of the chunk.
            caption: row of the shot's captions.
            noise: ``[S, 1, F, C, h, w]``; entry ``s`` enters a frame's input at its step ``s``.
        """
        if caption != self._caption:
            self._chunk_caption.take(self._captions, caption)
        if self._plan is not None and plan.carried:
            left = self._plan.frames
            self._x[:, : plan.carried] = self._x[:, left - plan.carried : left].clone()
        self._plan, self._caption = plan, caption
        self._noise[:, :, : plan.frames] = noise
        self._x[:, plan.carried : plan.frames] = noise[0][:, plan.carried :]

    @torch.inference_mode()
    def denoise(self, step: int) -> Tensor:
        """See ``FilmState``."""
        assert self._plan is not None, "a pass before begin_chunk"
        self._run(self._plan, self._plan.levels[step])
        return self._x0[:, : self._plan.frames]

    @torch.inference_mode()
    def commit(self) -> None:
        """See ``FilmState``."""
        assert self._plan is not None, "a pass before begin_chunk"
        clean = self._plan.clean or self._plan
        self._run(clean, (COMMIT,) * clean.frames)

    def close(self) -> None:
        """Drop graphs and caches."""
        self._graphs.clear()
        self._products.clear()
        self._runner.close()

    def _store(self, captions: CaptionSet) -> None:
        for row, caption in enumerate(self._products.of(captions)):
            self._captions.store(row, caption)

    def _stacked(self, text: Tensor, length: int) -> StackedCaption:
        return StackedCaption.of(caption_kv(self._runner.student, text, length))

    def _run(self, plan: PassPlan, levels: tuple[int, ...]) -> None:
        """Replay a pass; one that no film of usual length has is run as it is."""
        graph = self._graphs.get(_key(plan, levels))
        self._replay(graph or self._chunk_function(plan, levels), plan)

    def _replay(self, run: Replay, plan: PassPlan) -> None:
        if self.abandoned():
            raise ChunkAbandonedError
        self._runner.place(plan)
        run()

    def _record(self, policy: RolloutPolicy, capture: Capture) -> None:
        """Capture the context pass, and every pass of every chunk position in the ring."""
        frames = self._runner.config.cache.context_frames
        if frames:
            plan = policy.context([0] * frames)
            encode = self._known_function(plan, self._context, self._rows)
            encode()
            self._graphs[_key(plan, plan.levels[0])] = capture(encode)
        chunk, new = 0, True
        while new:
            last, new = policy.chunk(0, chunk, 0), False
            for plan in (*last.lead_in, last):
                clean = plan.clean or plan
                passes = [(plan, levels) for levels in plan.levels]
                for number, (own, levels) in enumerate(
                    [*passes, (clean, (COMMIT,) * clean.frames)]
                ):
                    if _key(own, levels) in self._graphs:
                        continue
                    run, new = self._chunk_function(own, levels), True
                    # Warm up before capture. All passes of a plan use the same kernels, so one run
                    # is enough; in the first chunk every pass is run, because each level has its
                    # own time table.
                    if chunk == 0 or number == 0 or own is not plan:
                        run()
                    self._graphs[_key(own, levels)] = capture(run)
            chunk += 1

    def _warm_up(self, model: ModelConfig) -> None:
        """Compile and load what runs outside of graphs: captions and noise."""
        blank = torch.zeros(1, model.text_len, model.text_dim)
        self.begin_shot(CaptionSet(embeddings=blank, lengths=(model.text_len,)))
        PhiloxNoise(0).draw(0, 0, 0, self._x.shape, self.device)

    def _known_function(self, plan: PassPlan, latents: Tensor, rows: Tensor) -> Callable[[], None]:
        """Place a plan over known frames, and return what runs its pass.

        Args:
            plan: of the pass.
            latents: the frames.
            rows: caption of each frame, int64 ``[F]`` on the device.
        """
        runner, captions = self._runner, CaptionPerFrame(self._captions, rows)
        inputs = runner.inputs(plan, plan.levels[0], captions)

        def encode() -> None:
            runner.run(latents, inputs)

        return encode

    def _chunk_function(self, plan: PassPlan, levels: tuple[int, ...]) -> Callable[[], None]:
        """Place a plan, and return what runs its pass at these levels over frames being made."""
        runner, frames = self._runner, plan.frames
        inputs = runner.inputs(plan, levels, self._chunk_caption.first())
        latents = ChunkLatents(
            x=self._x[:, :frames], x0=self._x0[:, :frames], noise=self._noise[:, :, :frames]
        )

        def commit() -> None:
            runner.run(latents.x0, inputs)

        def denoise() -> None:
            runner.advance(inputs, runner.run(latents.x, inputs), latents)

        return commit if levels[0] == COMMIT else denoise


def _key(plan: PassPlan, levels: tuple[int, ...]) -> tuple[object, ...]:
    """What a graph depends on; all else is data."""
    return levels, plan.writes, plan.reads
