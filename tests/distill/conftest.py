"""A bank small enough to make inside a test run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shotstream_distill.make_bank import make_bank
from shotstream_rt.model.nano_codec import NanoCodecNet


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
