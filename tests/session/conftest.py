"""A model small and obvious enough to follow by hand: every frame tells how it was made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.abandonment import ChunkAbandonedError
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.config import CacheConfig, ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.kernels.sets.kernel_set import TORCH_OPS
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.codec import LatentCodec
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.students import STUDENTS
from shotstream_rt.session import Session
from shotstream_rt.shot_inputs import ShotInputs

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

    dtype = torch.float32
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


@dataclass(eq=False)
class FakeShot:
    """What a fake pipeline knows of a shot."""

    number: int = -1
    captions: CaptionSet | None = None
    context: float = 0.0
    memory: dict[int, float] = field(default_factory=lambda: {-1: 0.0})
    made: dict[int, Tensor] = field(default_factory=dict)

    def level(self) -> float:
        """Return the grey level of its caption."""
        assert self.captions is not None, "no caption was given since the film went back to it"
        return float(self.captions.embeddings[-1].sum() % 7)


class FakePipeline:
    """Mixes noise, context, caption and the clean chunks before into one grey level."""

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.calls: list[tuple[Any, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail_at: tuple[int, int] | None = None
        prepared: list[tuple[str, ...] | None] = []
        self.prepared = prepared
        self.running = FakeShot()
        self.film = SimpleNamespace(
            companion=None, prepare_captions=lambda captions: prepared.append(captions.keys)
        )
        self.kept_chunks = 0
        self.before: FakeShot | None = None

    @property
    def overwritten(self) -> FakePipeline:
        return self  # it keeps everything; an attribute would keep it alive

    def begin_shot(self, begins: ShotInputs, *_: Any) -> None:
        captions, flags = begins.captions, tuple(begins.flags)
        self.calls.append(("begin", begins.shot, flags, len(captions), begins.target_flag))
        if self.running.made:
            self.before = self.running
        self.running = FakeShot(begins.shot, captions, float(begins.context.mean()))

    def change_captions(self, captions: CaptionSet, *_: Any) -> None:
        self.calls.append(("captions", self.running.number, len(captions)))
        self.running.captions = captions

    def run_chunk(
        self, chunk: int, noise: Any, abandoned: Callable[[], bool] = lambda: False
    ) -> Tensor:
        while not self.gate.wait(0.01):
            if abandoned():
                raise ChunkAbandonedError
        shot = self.running
        if self.fail_at == (shot.number, chunk):
            raise RuntimeError("the accelerator is on fire")
        self.calls.append(("chunk", shot.number, chunk))
        frames = self.config.shot.chunk_frames
        model = self.config.model
        shape = (1, frames, 16, model.latent_height, model.latent_width)
        level = 0.1 * shot.level() + 0.3 * shot.context
        x0 = 0.1 * noise.draw(shot.number, chunk, 0, shape) + level + 0.2 * shot.memory[chunk - 1]
        self._x0, self._chunk = x0, chunk
        shot.made[chunk] = x0
        return x0

    def reread(self, chunks: range, *_: Any) -> None:
        shot = self.running
        self.calls.append(("reread", shot.number, tuple(chunks)))
        for chunk in chunks:
            level = 0.01 * shot.level()
            shot.memory[chunk] = (
                level + float(shot.made[chunk].mean()) + 0.1 * shot.memory[chunk - 1]
            )

    def commit(self, *_: Any) -> None:
        self.calls.append(("commit", self.running.number))
        self.running.memory[self._chunk] = float(self._x0.mean())

    def return_to(self, shot: FakeShot) -> bool:
        if shot is not self.before:
            return False
        self.calls.append(("return", shot.number))
        self.running, self.before, shot.captions = shot, None, None
        return True

    def can_remake(self, shot: FakeShot, chunk: int, last: int) -> bool:
        return chunk <= last

    def wind_back(self, shot: FakeShot, chunk: int, last: int) -> int:
        return chunk - 1

    def close(self) -> None:
        self.calls.append(("close",))


class FakeBackend:
    """Holds no weights; tells whether they would be freed."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class FakeModel(Model):
    """A model whose films are all of one fake pipeline's making."""

    def __init__(
        self,
        config: StreamConfig,
        codec: LatentCodec | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.fake_backend, self.fake_codec, self.fake_text = FakeBackend(), FakeCodec(), FakeText()
        self.pipeline = FakePipeline(config)
        super().__init__(
            name="fake",
            config=config,
            backend=self.fake_backend,  # type: ignore[arg-type]
            codec=codec or self.fake_codec,
            text=self.fake_text,
            device=device or torch.device("cpu"),
            info={"model": "fake", "backend": "fake"},
        )

    def new_pipeline(self) -> Pipeline:
        return self.pipeline  # type: ignore[return-value]


def fake_bundle(latent_height: int = 2, latent_width: int = 4) -> FakeModel:
    config = StreamConfig(
        model=ModelConfig(
            dim=12, ffn_dim=8, num_heads=1, num_layers=1, text_dim=2, text_len=TEXT_LEN,
            latent_height=latent_height, latent_width=latent_width,
        ),
        cache=CacheConfig(),
        shot=ShotConfig(),
        schedule=ScheduleConfig(),
    )  # fmt: skip
    return FakeModel(config)


@pytest.fixture
def bundle() -> Iterator[FakeModel]:
    with fake_bundle() as made:
        yield made  # type: ignore[misc]


@pytest.fixture
def new_bundle() -> Callable[[], FakeModel]:
    """Make as many as a test wants."""
    return fake_bundle


@pytest.fixture
def large_bundle() -> Iterator[FakeModel]:
    """The same with frames of 96x160, so that a leak would weigh something."""
    with fake_bundle(12, 20) as made:
        yield made  # type: ignore[misc]


@pytest.fixture
def open_session() -> Iterator[Callable[..., Session]]:
    sessions: list[tuple[Session, Any]] = []

    def opener(model: Model | None = None, **options: Any) -> Session:
        made = model or fake_bundle()
        session = Session(made, **options)
        if model is None:
            made.close()  # from here on only the session holds it
        sessions.append((session, made))
        return session

    yield opener
    for session, made in sessions:
        made.pipeline.gate.set()
        made.fake_codec.decode_gate.set()
        session.close()


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> list[FakeModel]:
    """Let every ``Session.open`` load the fake model; lists what was loaded."""
    loaded: list[FakeModel] = []

    def load(*_: object, **__: object) -> FakeModel:
        loaded.append(fake_bundle())
        return loaded[-1]

    monkeypatch.setattr(Model, "open", load)
    return loaded


@pytest.fixture
def open_student() -> Iterator[Callable[..., Session]]:
    """Opens sessions of a student with small random weights and short shots, seed 5."""
    left: list[Session | Model] = []

    def opener(name: str, chunks: int = 6, **options: Any) -> Session:
        fake = fake_bundle()
        config = STUDENTS[name].stream(fake.config.model)
        length = chunks * config.shot.chunk_frames
        config = replace(config, shot=replace(config.shot, shot_frames=length))
        torch.manual_seed(3)
        student = Student(config.model).requires_grad_(False)
        for parameter in student.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        backend = EagerBackend(BoundStudent.from_student(student, TORCH_OPS), config)
        model = Model(
            name=name, config=config, backend=backend, codec=fake.fake_codec, text=fake.fake_text,
            device=torch.device("cpu"), info={"model": name},
        )  # fmt: skip
        session = model.session(**{"seed": 5, "queue_chunks": 1, **options})
        left.extend((session, model, fake))
        return session

    yield opener
    for opened in left:
        opened.close()
