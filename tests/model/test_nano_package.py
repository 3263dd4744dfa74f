"""The model inside the package: complete, small, and it draws what it is asked for."""

from __future__ import annotations

import numpy as np
import torch

from shotstream_distill.evaluation.detectors import Detector, majority
from shotstream_rt import Session
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.model.nano.text import TEXT_DIM, TEXT_LEN

LIMIT_BYTES = 20_000_000


def test_the_package_is_complete_and_small() -> None:
    manifest = StudentManifest.read(NANO_FOLDER / "student.json")
    files = [manifest.codec["file"], manifest.text["file"], "student.safetensors"]
    assert sum((NANO_FOLDER / name).stat().st_size for name in files) <= LIMIT_BYTES
    model = manifest.stream.model
    assert (model.text_dim, model.text_len) == (TEXT_DIM, TEXT_LEN)
    assert (model.latent_height * 8, model.latent_width * 8) == (96, 160)
    assert manifest.lineage


def test_it_draws_the_place_and_the_color_it_is_asked_for() -> None:
    with Session.open("nano", seed=1, device="cpu", threads=1) as session:
        assert session.cut("medium shot of a blue bird in a snow field") == ()
        film = [frame.pixels for frame in session.stream()]
    keys = torch.from_numpy(np.stack([film[index] for index in (0, 24, 48, 72)]))
    readings = Detector.load().read(keys.permute(0, 3, 1, 2).float() / 255)
    assert majority([reading.place for reading in readings]) == "snow-field"
    colors = [subject.color for reading in readings for subject in reading.subjects[:1]]
    assert majority(colors) == "blue"
