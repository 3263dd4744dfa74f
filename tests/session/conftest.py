"""A model small and obvious enough to follow by hand: every frame tells how it was made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.config import CacheConfig, ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.loading import ModelBundle
from shotstream_rt.session import Session

TEXT_LEN = 8


class FakeText:
    """Encodes a caption as its length and letter sum."""

    text_dim = 2
    text_len = TEXT_LEN

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        self.encoded += prompts
        rows = torch.zeros(len(prompts), TEXT_LEN, 2)
        for row, prompt in zip(rows, prompts, strict=True):
            row[0, 0], row[0, 1] = len(prompt), sum(map(ord, prompt)) % 97
        return rows, [1] * len(prompts)

    def check(self, prompt: str) -> list[str]:
        return ["unknown word: xyzzy"] if "xyzzy" in prompt else []


class FakeDecoder:
    """Latent value to grey level; the first latent of a stream gives one frame, others four."""

    def __init__(self, codec: FakeCodec) -> None:
        self._codec = codec
        self._first = True

    def reset(self) -> None:
        self._first = True

    def decode(self, latents: Tensor) -> Tensor:
        self._codec.decode_gate.wait()
        frames = []
        for latent in latents[0]:
            picture = latent.mean(0).repeat_interleave(8, 0).repeat_interleave(8, 1).clamp(-1, 1)
            frames += [picture.expand(3, -1, -1)] * (1 if self._first else 4)
            self._first = False
        return torch.stack(frames)[None]


class FakeCodec:
    """Pictures are latents made larger."""

    latent_channels, spatial_stride, temporal_stride = 16, 8, 4

    def __init__(self) -> None:
        self.encoded = 0
        self.decode_gate = threading.Event()
        self.decode_gate.set()

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        return latent_height * 8, latent_width * 8

    def encode_frames(self, frames: Tensor) -> Tensor:
        self.encoded += len(frames)
        return frames[:, :1, ::8, ::8].expand(-1, 16, -1, -1).clone()

    def encode_clip(self, clip: Tensor) -> Tensor:
        return self.encode_frames(clip[0, :, ::4].transpose(0, 1))[None]

    def decoder(self) -> FakeDecoder:
        return FakeDecoder(self)

    def decode_full(self, latents: Tensor) -> Tensor:
        return FakeDecoder(self).decode(latents)


class FakePipeline:
    """Mixes noise, context, caption and the clean chunks before into one grey level."""

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.calls: list[tuple[Any, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail_at: tuple[int, int] | None = None

    def begin_shot(
        self,
        shot: int,
        context_latents: Tensor,
        flags: Sequence[int],
        captions: CaptionSet,
        target_flag: int,
    ) -> None:
        self.calls.append(("begin", shot, tuple(flags), len(captions), target_flag))
        self._shot, self._captions = shot, captions
        self._context = float(context_latents.mean())
        self._memory = 0.0

    def set_captions(self, captions: CaptionSet) -> None:
        self.calls.append(("captions", self._shot, len(captions)))
        self._captions = captions

    def run_chunk(self, chunk: int, noise: Any) -> Tensor:
        self.gate.wait()
        if self.fail_at == (self._shot, chunk):
            raise RuntimeError("the accelerator is on fire")
        self.calls.append(("chunk", self._shot, chunk))
        frames = self.config.shot.chunk_frames
        model = self.config.model
        shape = (1, frames, 16, model.latent_height, model.latent_width)
        level = 0.1 * float(self._captions.embeddings[-1].sum() % 7) + 0.3 * self._context
        x0 = 0.1 * noise.draw(self._shot, chunk, 0, shape) + level + 0.2 * self._memory
        self._x0 = x0
        return x0

    def commit(self) -> None:
        self.calls.append(("commit", self._shot))
        self._memory = float(self._x0.mean())


def fake_bundle(latent_height: int = 2, latent_width: int = 4) -> ModelBundle:
    config = StreamConfig(
        model=ModelConfig(
            dim=12, ffn_dim=8, num_heads=1, num_layers=1, text_dim=2, text_len=TEXT_LEN,
            latent_height=latent_height, latent_width=latent_width,
        ),
        cache=CacheConfig(),
        shot=ShotConfig(),
        schedule=ScheduleConfig(),
    )  # fmt: skip
    return ModelBundle(
        name="fake",
        config=config,
        pipeline=FakePipeline(config),  # type: ignore[arg-type]
        codec=FakeCodec(),
        text=FakeText(),
        device=torch.device("cpu"),
        info={"model": "fake", "backend": "fake"},
    )


@pytest.fixture
def bundle() -> ModelBundle:
    return fake_bundle()


@pytest.fixture
def large_bundle() -> ModelBundle:
    """The same with frames of 96x160, so that a leak would weigh something."""
    return fake_bundle(12, 20)


@pytest.fixture
def open_session() -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def opener(model: ModelBundle | None = None, **options: Any) -> Session:
        session = Session(model or fake_bundle(), **options)
        sessions.append(session)
        return session

    yield opener
    for session in sessions:
        session._model.pipeline.gate.set()  # type: ignore[attr-defined]
        session._model.codec.decode_gate.set()  # type: ignore[attr-defined]
        session.close()


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> list[ModelBundle]:
    """Let every ``Session.open`` load the fake model; lists what was loaded."""
    loaded: list[ModelBundle] = []

    def load(*_: object, **__: object) -> ModelBundle:
        loaded.append(fake_bundle())
        return loaded[-1]

    monkeypatch.setattr("shotstream_rt.model.loading.load_model", load)
    return loaded
