"""A scripted film that every backend has to play alike."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import (
    CacheConfig,
    ModelConfig,
    RolloutConfig,
    ScheduleConfig,
    ShotConfig,
    StreamConfig,
)
from shotstream_rt.export.case_folder import exported
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs

sys.path.insert(0, str(Path(__file__).parent))  # tensorrt_stub.py

MODEL = ModelConfig(
    dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32, text_len=8, latent_height=4,
    latent_width=6,
)  # fmt: skip
STREAM = StreamConfig(
    model=MODEL,
    cache=CacheConfig(context_frames=4, sink_frames=1, window_frames=6),
    shot=ShotConfig(chunk_frames=2, shot_frames=8),
    schedule=ScheduleConfig(denoising_steps=(1000, 750, 400)),
)
CPU = torch.device("cpu")
CHUNKS = 6
"""Of each shot: the window is full after three."""

POLICIES = {
    "window": STREAM,
    "on-read": replace(STREAM, cache=replace(STREAM.cache, key_rotation="on_read")),
    "pruned": replace(STREAM, history=HistoryPolicy(recent_frames=1, pruned_heads=((0,), (0, 1)))),
    "no-context": replace(STREAM, cache=CacheConfig(context_frames=0)),
    "recache": replace(
        STREAM,
        cache=CacheConfig(context_frames=0, sink_frames=1, window_frames=6),
        rollout=RolloutConfig(prompt="recache", first_frames=1),
    ),
    "kept": replace(
        STREAM,
        cache=CacheConfig(
            context_frames=0,
            sink_frames=1,
            window_frames=5,
            key_rotation="on_read",
            numbering="slot",
        ),
        schedule=replace(STREAM.schedule, first_steps=(1000, 500)),
        rollout=RolloutConfig(cut="keep"),
    ),
    "rolling": replace(
        STREAM,
        cache=CacheConfig(
            context_frames=0,
            sink_frames=2,
            window_frames=8,
            key_rotation="on_read",
            numbering="slot",
        ),
        rollout=RolloutConfig(policy="rolling", prompt="refused"),
    ),
}
"""One configuration of each policy. ``no-context`` keeps whole shots and forgets the others;
``recache`` computes held keys anew when the prompt changes; ``kept`` keeps its caches at a cut;
``rolling`` denoises three chunks at once."""


@pytest.fixture(scope="session")
def policies() -> dict[str, StreamConfig]:
    return POLICIES


@pytest.fixture(scope="session")
def requested() -> Callable[..., BackendRequest]:
    """Asks for the same random weights."""
    torch.manual_seed(3)
    student = Student(MODEL).requires_grad_(False)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.15)

    def request(
        config: StreamConfig,
        kernels: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
        lossy_parts: tuple[str, ...] = (),
        engines: Path | None = None,
    ) -> BackendRequest:
        return BackendRequest(
            config=config, device=device, dtype=dtype, weights=student.state_dict,
            kernel_set=kernels, lossy_parts=lossy_parts, engines=engines,
        )  # fmt: skip

    return request


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exports the passes of a configuration, each once: it takes seconds."""
    pytest.importorskip("onnxscript", reason="exports need onnxscript")
    keep = tmp_path_factory.mktemp("engines")

    def folder(
        config: StreamConfig, dtype: torch.dtype = torch.float32, form: str = "passes",
        products: str = "exact",
    ) -> Path:  # fmt: skip
        with exported(config, dtype, keep, form, products) as made:
            return made

    return folder


@pytest.fixture(scope="session")
def play() -> Callable[[StreamConfig, StudentBackend], Tensor]:
    """Plays two shots, the first with a changed prompt, and two short ones that begin with given
    frames and are made from them; returns all latents."""

    def captions(seed: int, count: int) -> CaptionSet:
        rows = PhiloxNoise(seed).draw(0, 0, 0, (count, MODEL.text_len, MODEL.text_dim))
        lengths = tuple(MODEL.text_len - 2 * row for row in range(count))
        for row, length in zip(rows, lengths, strict=True):
            row[length:] = 0
        return CaptionSet(embeddings=rows, lengths=lengths)

    def film(config: StreamConfig, backend: StudentBackend) -> Tensor:
        state, made = backend.new_film(), []
        state.poison()
        pipeline, noise = Pipeline(config, state), PhiloxNoise(11)
        past, chunk_frames = config.cache.context_frames, config.shot.chunk_frames
        first = config.rollout.first_frames or chunk_frames
        shape = (1, first + chunk_frames, *pipeline.latent_shape[2:])
        rolling = config.rollout.policy == "rolling"
        for shot in range(2 if rolling else 4):
            context = PhiloxNoise(5).draw(shot, 0, 0, (1, past, *pipeline.latent_shape[2:])) * shot
            flags = [frame * 2 // past for frame in range(past)] if shot else [0] * past
            texts = captions(20 + shot, len(set(flags)) + 1 if shot else 1)
            begins = ShotInputs(
                shot + 1, context, flags, texts, shot + 1,
                given=PhiloxNoise(6).draw(shot, 0, 0, shape) if shot > 1 else None,
                strength=0.7 if shot == 3 else None,
            )  # fmt: skip
            pipeline.begin_shot(begins)
            for chunk in range(CHUNKS if shot < 2 else 4):
                made.append(pipeline.run_chunk(chunk, noise).float().to("cpu", copy=True))
                if (shot, chunk) == (0, 1) and config.rollout.prompt != "refused":
                    pipeline.change_captions(captions(30, len(texts)))
                if chunk + 1 < CHUNKS:
                    pipeline.commit()
        pipeline.close()
        return torch.cat(made, 1)

    return film
