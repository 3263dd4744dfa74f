"""The captured backend: its static buffers on a CPU, its graphs where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends import registry
from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import CacheConfig, ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, TORCH_OPS, KernelSet
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs

MODEL = ModelConfig(
    dim=48, ffn_dim=80, num_heads=2, num_layers=2, text_dim=20, text_len=12, latent_height=4,
    latent_width=6,
)  # fmt: skip
CACHES = [
    {},
    {"sink_frames": 2, "window_frames": 6},
    {"window_frames": 5},
    {"key_rotation": "on_read", "window_frames": 6},
    {"context_frames": 0},
]


def config(cache: dict[str, object]) -> StreamConfig:
    return StreamConfig(
        model=MODEL,
        cache=CacheConfig(**{"context_frames": 4, **cache}),  # type: ignore[arg-type]
        shot=ShotConfig(chunk_frames=2, shot_frames=8),
    )


def student() -> Student:
    torch.manual_seed(3)
    made = Student(MODEL)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return made.requires_grad_(False)


def bound(kernels: KernelSet) -> BoundStudent:
    return BoundStudent.from_student(student(), kernels)


def request(made: StreamConfig, device: torch.device, kernels: str = "auto") -> BackendRequest:
    return BackendRequest(
        config=made, device=device, dtype=torch.float32, kernel_set=kernels,
        weights=student().state_dict,
    )  # fmt: skip


def film(made: StreamConfig, backend: StudentBackend, shots: int = 3, chunks: int = 6) -> Tensor:
    """Latents of a film whose captions, flags and context change at every shot."""
    state = backend.new_film()
    state.poison()
    past = made.cache.context_frames
    pipeline, noise, parts = Pipeline(made, state), PhiloxNoise(5), []
    for shot in range(shots):
        flags = ([0, 0, 0, 0] if shot < 2 else [0, 0, 1, 1])[:past]
        rows = 1 if shot == 0 else len(set(flags)) + 1
        embeddings = PhiloxNoise(shot).draw(9, 0, 0, (rows, 12, 20))
        lengths = tuple(12 - 3 * row for row in range(rows))
        for row, length in zip(embeddings, lengths, strict=True):
            row[length:] = 0
        context = PhiloxNoise(77).draw(shot, 0, 0, (1, past, 16, 4, 6))
        captions = CaptionSet(embeddings=embeddings, lengths=lengths)
        pipeline.begin_shot(ShotInputs(shot, context, flags, captions, max(1, shot)))
        for chunk in range(chunks):
            parts.append(pipeline.run_chunk(chunk, noise).clone().cpu())
            pipeline.commit()
    return torch.cat(parts, 1)


def by_calling(function: Callable[[], None]) -> Callable[[], None]:
    """Stand in for a graph: replay by calling again, after a run on the buffers as they are."""
    with torch.inference_mode():
        function()
    return function


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_static_buffers_carry_everything_that_changes(cache: dict[str, object]) -> None:
    made = config(cache)
    want = film(made, EagerBackend(bound(REFERENCE), made))
    got = film(made, CudaGraphBackend(bound(REFERENCE), made, lambda: by_calling))
    assert float((got - want).norm() / want.norm()) < 1e-5


def test_nothing_is_captured_after_open() -> None:
    made, captured = config({}), []

    def capture(function: Callable[[], None]) -> Callable[[], None]:
        captured.append(function)
        return function

    backend = CudaGraphBackend(bound(TORCH_OPS), made, lambda: capture)
    assert not captured
    film(made, backend, shots=2, chunks=9)
    # Four fill levels and three places of the full ring, of five passes each; and the context.
    assert len(captured) == 7 * 5 + 1


def test_films_capture_for_themselves() -> None:
    """Graphs hold addresses: what one film replays must not reach into another's memory."""
    made = config({"window_frames": 5})
    backend = CudaGraphBackend(bound(REFERENCE), made, lambda: by_calling)
    alone = film(made, backend)
    first, second = (Pipeline(made, backend.new_film()) for _ in range(2))
    captions = CaptionSet(embeddings=torch.ones(1, 12, 20), lengths=(12,))
    second.begin_shot(ShotInputs(3, torch.full((1, 4, 16, 4, 6), torch.nan), [0] * 4, captions, 1))
    second.run_chunk(0, PhiloxNoise(5))
    assert torch.equal(film(made, backend), alone)
    first.begin_shot(ShotInputs(3, torch.zeros(1, 4, 16, 4, 6), [0] * 4, captions, 1))
    assert first.run_chunk(0, PhiloxNoise(5)).isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_replayed_graphs_equal_eager(cache: dict[str, object], kernels: str) -> None:
    made, device = config(cache), torch.device("cuda")
    eager, graph = (
        registry.resolve(name, request(made, device, kernels)) for name in ("eager", "cuda_graph")
    )
    want, got = film(made, eager), film(made, graph)
    assert float((got - want).norm() / want.norm()) < 1e-5
    oracle = film(made, EagerBackend(bound(REFERENCE), made))
    assert float((got - oracle).norm() / oracle.norm()) < 1e-4


@pytest.mark.gpu
def test_a_shot_never_waits_for_the_device() -> None:
    made, device = config({}), torch.device("cuda")
    backend = registry.resolve("cuda_graph", request(made, device))
    pipeline, noise = Pipeline(made, backend.new_film()), PhiloxNoise(5)
    captions = CaptionSet(embeddings=torch.zeros(1, 12, 20), lengths=(4,))
    context = torch.zeros(1, 4, 16, 4, 6)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for shot in range(2):
            pipeline.begin_shot(ShotInputs(shot, context, [0] * 4, captions, 1))
            for chunk in range(3):
                pipeline.run_chunk(chunk, noise)
                pipeline.commit()
    finally:
        torch.cuda.set_sync_debug_mode("default")
