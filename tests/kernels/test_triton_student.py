"""A student of whole blocks on the Triton set against the same student on the reference set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.config import (
    CacheConfig,
    KeyRotation,
    ModelConfig,
    ScheduleConfig,
    ShotConfig,
    StreamConfig,
)
from shotstream_rt.kernels.sets.kernel_set import REFERENCE, KernelSet, triton_kernels
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs

MODEL = ModelConfig(
    dim=36, ffn_dim=50, num_heads=3, num_layers=1, text_dim=20, text_len=12, latent_height=2,
    latent_width=4,
)  # fmt: skip
CONTEXT_FRAMES, CHUNKS = 2, 3


def uncaptured(student: BoundStudent, config: StreamConfig) -> CudaGraphBackend:
    """The captured backend's passes, on a device without graphs."""
    return CudaGraphBackend(student, config, lambda: lambda function: function)


def shoot(
    config: StreamConfig,
    kernels: KernelSet,
    device: torch.device,
    build: Callable[..., EagerBackend | CudaGraphBackend] = EagerBackend,
) -> Tensor:
    """Latents of one shot with a rolling window behind a context of two shots."""
    torch.manual_seed(3)
    student = Student(config.model)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    bound = BoundStudent.from_student(student.requires_grad_(False).to(device), kernels)
    film = build(bound, config).new_film()
    film.poison()
    pipeline = Pipeline(config, film)
    embeddings = PhiloxNoise(8).draw(0, 0, 0, (3, MODEL.text_len, MODEL.text_dim))
    lengths = (3, 4, 5)
    for row, length in zip(embeddings, lengths, strict=True):
        row[length:] = 0
    context = PhiloxNoise(9).draw(0, 0, 0, (1, CONTEXT_FRAMES, *pipeline.latent_shape[2:]))
    captions = CaptionSet(embeddings=embeddings, lengths=lengths)
    pipeline.begin_shot(ShotInputs(2, context, [0, 1], captions, 2))
    chunks = []
    for chunk in range(CHUNKS):
        chunks.append(pipeline.run_chunk(chunk, PhiloxNoise(1)).cpu().clone())
        pipeline.commit()
    return torch.cat(chunks, 1)


@pytest.mark.parametrize(
    "launcher,key_rotation",
    [("eager", "on_write"), ("eager", "on_read"), ("cuda_graph", "on_write")],
)
def test_a_shot_has_the_reference_s_latents(
    triton_device: torch.device, launcher: str, key_rotation: KeyRotation
) -> None:
    config = StreamConfig(
        model=MODEL,
        cache=CacheConfig(
            context_frames=CONTEXT_FRAMES, sink_frames=1, window_frames=5, key_rotation=key_rotation
        ),
        shot=ShotConfig(chunk_frames=3, shot_frames=3 * CHUNKS),
        schedule=ScheduleConfig(denoising_steps=(1000, 500)),
    )
    wanted = shoot(config, REFERENCE, torch.device("cpu"))
    captured = CudaGraphBackend if triton_device.type == "cuda" else uncaptured
    got = shoot(
        config, triton_kernels(), triton_device, EagerBackend if launcher == "eager" else captured
    )
    assert bool(torch.isfinite(got).all())
    assert float((got - wanted).norm() / wanted.norm()) < 1e-5
