"""Damaged weights: safetensors, torch's containers, the nano files, students as a whole."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from shotstream_rt.config import ModelConfig
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.loading.student_weights import open_student, student_shapes
from shotstream_rt.model.checkpoint import load_checkpoint, read_checkpoint
from shotstream_rt.model.nano.codec import NanoCodec
from shotstream_rt.model.nano.text import NanoTextEncoder

STATE = {
    "a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.ones(3).bfloat16(),
    "steps": torch.arange(3), "none": torch.empty(0, 3), "one": torch.ones(()).half(),
}  # fmt: skip


def read_all(read: Mapping[str, Any]) -> None:
    for value in read.values():
        if isinstance(value, Mapping):
            read_all(value)
        elif isinstance(value, Tensor):
            assert value.device.type == "cpu"


def test_safetensors(surface, tmp_path):
    path, good = tmp_path / "weights.safetensors", save(STATE)
    length = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]

    def attempt(mutator):
        if mutator.random.random() < 0.5:
            path.write_bytes(mutator.data(good))
        else:
            text = mutator.text(header)
            path.write_bytes(len(text).to_bytes(8, "little") + text + body)
        read_all(load_checkpoint(path))

    surface.run(attempt, 600, in_ten_minutes=5000)


def saved(content: object, new: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


@pytest.mark.parametrize("part", ["file", "pickle", "legacy"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns of odd pickle protocols
def test_torch(part, surface, tmp_path):
    path = tmp_path / "weights.pt"
    good = saved({"generator": STATE, "step": 3, "args": {"rate": 0.1}}, part != "legacy")

    def attempt(mutator):
        if part == "pickle":
            # With a right checksum around it, so that it is what torch's reader gets.
            with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w") as new:
                for name in old.namelist():
                    data = old.read(name)
                    new.writestr(name, mutator.data(data) if name.endswith(".pkl") else data)
        else:
            path.write_bytes(mutator.data(good))
        read_all(read_checkpoint(path))

    surface.run(attempt, 250)


@pytest.mark.parametrize("name", ["codec", "text"])
def test_nano(name, surface, tmp_path):
    path = tmp_path / f"{name}.safetensors"
    good = (NANO_FOLDER / path.name).read_bytes()
    length = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]

    def attempt(mutator):
        if mutator.random.random() < 0.5:
            path.write_bytes(mutator.data(good[: 8 + length]) + body)
        else:
            text = mutator.text(header)
            path.write_bytes(len(text).to_bytes(8, "little") + text + body)
        NanoCodec.load(path) if name == "codec" else NanoTextEncoder.load(path)

    surface.run(attempt, 60)


def test_students(surface, tmp_path):
    config = ModelConfig(
        dim=16, ffn_dim=24, num_heads=2, num_layers=2, text_dim=12, freq_dim=8, latent_height=4,
        latent_width=6,
    )  # fmt: skip
    state = {name: torch.zeros(shape) for name, shape in student_shapes(config).items()}
    odd: list[Any] = [
        torch.zeros(()), torch.zeros(0), torch.zeros(1, 1, 1), torch.zeros(16).int(),
        torch.full((16,), torch.nan), torch.zeros(16).to(torch.float8_e4m3fn),
    ]  # fmt: skip
    path = tmp_path / "student.safetensors"

    def attempt(mutator):
        changed = dict(state)
        for _ in range(mutator.random.choice((1, 1, 3))):
            name = mutator.random.choice(list(changed))
            kind = mutator.random.randrange(4)
            if kind == 0:
                changed[name + mutator.random.choice((".x", "\x1b[31m", "y" * 3000))] = changed.pop(
                    name
                )
            elif kind == 1:
                del changed[name]
            else:
                changed[name] = mutator.random.choice(odd).clone()
        save_file(changed, path)
        read_all(open_student(path, num_heads=mutator.random.choice((1, 2, 3))).tensors)

    surface.run(attempt, 120)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    from shotstream_rt.errors import WeightsError

    path = tmp_path / "student.pt"
    one = torch.zeros(1)
    torch.save({"generator": {"model.a": one.expand(1 << 20, 1 << 20)}}, path)
    with pytest.raises(WeightsError, match="expanded views"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 24))
    with pytest.raises(WeightsError, match="compressed files"):
        read_checkpoint(path)
