"""A student of a few thousand weights, and a model around it that a session can play."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends import registry
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.bench.metric import Metric
from shotstream_rt.bench.record import BenchRecord, Correctness
from shotstream_rt.bench.student_run import random_student
from shotstream_rt.bench.workloads import Workload
from shotstream_rt.config import ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.codec import LatentCodec

# bench/gpu_check.py and its modules are programs of the checkout, no part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from device_check.report import Report

from .gpu_parts import DEVICE

TINY = {
    "dim": 24, "ffn_dim": 32, "num_heads": 2, "num_layers": 2, "text_dim": 8, "text_len": 6,
    "latent_height": 4, "latent_width": 6,
}  # fmt: skip


class LetterText:
    """Encodes the first letters of a caption."""

    text_dim, text_len = TINY["text_dim"], TINY["text_len"]

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        rows = torch.zeros(len(prompts), self.text_len, self.text_dim)
        for row, prompt in zip(rows, prompts, strict=True):
            for token, letter in zip(row[:4], prompt, strict=False):
                token[ord(letter) % self.text_dim] = 1
        return rows, [min(4, len(prompt)) for prompt in prompts]

    def check(self, prompt: str) -> list[str]:
        return []


class LargerPictures:
    """Pictures are latents made larger; first latent one frame, then four each."""

    dtype = torch.float32
    latent_channels, spatial_stride, temporal_stride = 16, 8, 4

    def __init__(self) -> None:
        self._first = True

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        return latent_height * 8, latent_width * 8

    def encode_frames(self, frames: Tensor) -> Tensor:
        return frames[:, :1, ::8, ::8].repeat(1, 16, 1, 1)

    def encode_clip(self, clip: Tensor) -> Tensor:
        return self.encode_frames(clip[0, :, ::4].transpose(0, 1))[None]

    def decoder(self) -> LargerPictures:
        return LargerPictures()

    def reset(self) -> None:
        self._first = True

    def decode(self, latents: Tensor) -> Tensor:
        frames = []
        for latent in latents[0]:
            picture = latent[:3].float().repeat_interleave(8, 1).repeat_interleave(8, 2)
            frames += [picture] * (1 if self._first else 4)
            self._first = False
        return torch.stack(frames)[None]

    def decode_full(self, latents: Tensor) -> Tensor:
        return self.decoder().decode(latents)


@pytest.fixture
def tiny_config() -> StreamConfig:
    return StreamConfig(
        model=ModelConfig(**TINY), shot=ShotConfig(chunk_frames=1, shot_frames=5)
    )  # fmt: skip


@pytest.fixture
def tiny_workload(tiny_config: StreamConfig) -> Workload:
    """Two shots of the tiny student."""
    return Workload(
        id="tiny",
        version=1,
        kind="student",
        title="tiny",
        recipe={"stream": tiny_config.to_dict(), "text_tokens": 4, "seed": 3, "shots": 2},
        tolerance={},
    )


@pytest.fixture
def make_tiny_model(tiny_config: StreamConfig) -> Callable[..., Model]:
    """Opens a model of the same random weights on a backend and kernels of choice."""
    device = torch.device("cpu")
    weights = random_student(tiny_config, seed=0).state_dict

    def make(
        backend: str = "auto", kernels: str = "auto", codec: LatentCodec | None = None
    ) -> Model:
        request = BackendRequest(
            config=tiny_config, device=device, dtype=torch.float32, weights=weights,
            kernel_set=kernels,
        )  # fmt: skip
        return Model(
            name="tiny",
            config=tiny_config,
            backend=registry.resolve(backend, request),
            codec=codec or LargerPictures(),
            text=LetterText(),
            device=device,
            weights=weights,
        )

    return make


@pytest.fixture
def tiny_bundle(make_tiny_model: Callable[..., Model]) -> Model:
    return make_tiny_model()


@pytest.fixture
def student_file(tmp_path: Path) -> Path:
    """A student's JSON as the command line takes it."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY), "utf-8")
    return path


@pytest.fixture
def make_record() -> Callable[..., BenchRecord]:
    """Builds a record with chosen medians; keywords replace whole sections."""

    def make(medians: dict[str, tuple[str, float]] | None = None, **changes: Any) -> BenchRecord:
        passed = Correctness(
            reference="oracle", rel_l2=1e-6, max_abs_err=1e-6, psnr_db=120.0, tolerance=1e-4,
            passed=True,
        )  # fmt: skip
        medians = {"shot_s": ("s", 2.0)} if medians is None else medians
        sections: dict[str, Any] = {
            "workload": {"id": "tiny", "version": 1, "fingerprint": "00ff"},
            "backend": {"requested": "auto", "resolved": "eager", "kernel_set": "cpu",
                        "dtype": "float32", "profile": "exact", "device": "cpu"},
            "git": {"commit": None, "dirty": None},
            "hardware": {"machine": "m", "cpu": "c", "gpu": None, "cores": 2},
            "software": {"torch": "2"},
            "method": {"threads": 1, "load_before": 0.1},
            "status": "ok",
            "correctness": passed,
            "metrics": tuple(
                Metric.of(name, unit, [value]) for name, (unit, value) in medians.items()
            ),
        }  # fmt: skip
        return BenchRecord(**{**sections, **changes})

    return make


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Of a GPU check that has run nothing yet."""
    return Report(out=tmp_path / "out", sources="0123", device=DEVICE)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where the parts of a GPU check write."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder
