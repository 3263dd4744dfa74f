"""Adapters of the paper's metrics: absent networks are named, present ones are used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_distill.metrics.pretrained import (
    Availability,
    load_adapters,
    normalised,
    pair_cosines,
    pretrained_figures,
)


class _Encoder:
    """Mean colour as a unit vector; a caption names the colour."""

    def pictures(self, frames: Tensor) -> Tensor:
        return F.normalize(frames.mean((2, 3)), dim=-1)

    def text(self, caption: str) -> Tensor:
        return torch.eye(3)[["red", "green", "blue"].index(caption)]

    def score(self, frames: Tensor) -> Tensor:
        return frames.mean((1, 2, 3)) * 10


def test_what_is_missing_is_said_and_nothing_takes_its_place(tmp_path: Path) -> None:
    found = load_adapters(tmp_path)
    assert not found.usable
    assert set(found.missing) == {"dino", "clip", "aesthetic", "viclip"}
    assert str(tmp_path / "dino") in found.missing["dino"]
    assert "dinov2" in found.missing["dino"]
    assert pretrained_figures(found, torch.rand(2, 2, 3, 8, 8), ["red", "blue"]) == {}


def test_figures_are_means_of_cosines() -> None:
    frames = torch.zeros(2, 2, 3, 8, 8)
    frames[0, :, 0], frames[1, :, 2] = 1, 1  # a red shot, then a blue one
    found = Availability(
        usable={name: _Encoder() for name in ("dino", "clip", "aesthetic")}, missing={}
    )
    figures = pretrained_figures(found, frames, ["red", "green"])
    assert figures["dino_intra"] == figures["clip_intra"] == [1, 1]
    assert figures["dino_inter"] == [0]
    assert figures["clip_text"] == [1, 1, 0, 0]
    assert figures["aesthetic"] == pytest.approx([10 / 3] * 4)


def test_frames_are_normalised_as_a_network_wants_them() -> None:
    made = normalised(torch.full((1, 3, 96, 160), 0.5), 224, (0.5, 0.5, 0.25), (1, 1, 0.5))
    assert made.shape == (1, 3, 224, 224)
    torch.testing.assert_close(made.mean((0, 2, 3)), torch.tensor([0.0, 0.0, 0.5]))


def test_pairs_are_counted_once() -> None:
    assert len(pair_cosines(torch.eye(4))) == 6
