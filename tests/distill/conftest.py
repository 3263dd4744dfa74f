"""A bank small enough to make inside a test run."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from shotstream_distill.nano.state import NanoState
from shotstream_distill.world.bank import Batch, LatentBank
from shotstream_distill.world.make_bank import LABEL_COLUMNS, make_bank
from shotstream_rt.model.nano.codec import NanoCodecNet
from shotstream_rt.model.nano.vocabulary import PLACES


class Trainer(Protocol):
    """What the loops of every stage have."""

    state: NanoState

    def loss(self, batch: Batch) -> Tensor: ...


@pytest.fixture
def free_port() -> int:
    """A port that nobody uses: below those that the system gives out by itself at any moment."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def codec_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("codec") / "codec.safetensors"
    save_file(NanoCodecNet().state_dict(), str(path))
    return path


@pytest.fixture(scope="session")
def bank_folder(tmp_path_factory: pytest.TempPathFactory, codec_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    make_bank(folder, codec_file, shards=1, stories=2, first_seed=10)
    make_bank(folder, codec_file, shards=1, stories=1, first_seed=50, long=True)
    return folder


def _tint_shard(stories: int = 40, shots: int = 3) -> dict[str, Tensor]:
    """Latents that are nothing but their story's tint and noise; character 0 is always there."""
    torch.manual_seed(0)
    rows = stories * shots
    tints = (0.05 * torch.randn(stories, 3)).repeat_interleave(shots, 0)
    base = torch.nn.functional.pad(tints, (0, 13))[:, None, :, None, None]
    lab = torch.zeros(rows, LABEL_COLUMNS, dtype=torch.int16)
    lab[:, 3] = torch.randint(len(PLACES), (stories,)).repeat_interleave(shots)
    lab[:, -2] = torch.arange(shots).repeat(stories)
    maps = torch.zeros(rows, 6, 2, 3, 12, 20, dtype=torch.uint8)
    maps[:, :, 0, :, 4:8, 5:10] = 255
    return {
        "lat": base + 0.02 * torch.randn(rows, 6, 16, 12, 20),
        "cand": base + 0.02 * torch.randn(rows, 7, 16, 12, 20),
        "maps": maps, "tok": torch.ones(rows, 4, 32, dtype=torch.uint8), "lab": lab,
        "tint": tints,
    }  # fmt: skip


@pytest.fixture
def bank(bank_folder: Path) -> LatentBank:
    return LatentBank(bank_folder)


@pytest.fixture
def overfit() -> Callable[..., list[float]]:
    """Train on one batch with the same noise at every step; returns the losses."""

    def train(trainer: Trainer, batch: Batch, steps: int = 6) -> list[float]:
        losses = []
        for _ in range(steps):
            torch.manual_seed(1)
            loss = trainer.loss(batch)
            loss.backward()
            trainer.state.apply(1.0, 0.5)
            losses.append(loss.item())
        return losses

    return train


@pytest.fixture(scope="session")
def tint_shard() -> Callable[..., dict[str, Tensor]]:
    """Makes shards that the context gate can examine without drawing."""
    return _tint_shard
