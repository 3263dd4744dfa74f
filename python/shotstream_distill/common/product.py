"""A stage's product on disk, and where weights come from.

A product is one file that ``nano/ship.py`` also reads: names and values (the running average where
there is one), whole, float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import WeightsError
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.loading.student_weights import open_student
from shotstream_rt.model.checkpoint import read_checkpoint
from shotstream_rt.model.nano.text import NanoTextNet

from .initial import init_parameters

TEXT = "text."
"""Prefix of the text encoder's tensors in a stage's product."""

Weights = dict[str, Tensor]
"""A stage's product: the student under bare names, a learned text encoder under ``text.``."""


def save_product(path: Path, weights: Weights, *, steps: int, train_s: float, stage: str) -> None:
    """Write a product in one move.

    Args:
        path: file to write, whole or not at all.
        weights: by name; stored as float32.
        steps: optimiser steps that made them.
        train_s: time that they took.
        stage: name of the stage.
    """
    data = {
        "names": list(weights),
        "average": [value.float().contiguous() for value in weights.values()],
        "step": steps,
        "elapsed_s": train_s,
        "stage": stage,
    }
    write_whole(path, data)


def write_whole(path: Path, data: Mapping[str, Any]) -> None:
    """Write a torch file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(dict(data), partial)
    partial.replace(path)


def load_product(path: Path) -> Weights:
    """Read a product, or any checkpoint with ``names`` and ``average``.

    Raises:
        WeightsError: missing or broken.
    """
    data = read_checkpoint(path)
    if "names" not in data or "average" not in data:
        raise WeightsError(f"{path}: got keys {sorted(data)[:5]}, wanted names and average")
    return dict(zip(data["names"], data["average"], strict=True))


def start_weights(start: str, model: ModelConfig, *, text: bool, seed: int) -> Weights:
    """Return the weights a run begins with.

    Args:
        start: ``random``, ``nano``, a student folder, a product, or a released checkpoint.
        model: the shape wanted.
        text: whether the nano text encoder belongs to the weights.
        seed: of random weights.

    Raises:
        WeightsError: the file is missing, broken or of another shape.
    """
    if start == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = NanoTextNet()
        weights = init_parameters(model, seed=seed)
        if text:
            weights |= {TEXT + k: v.detach().clone() for k, v in net.state_dict().items()}
        return weights
    path = NANO_FOLDER if start == "nano" else Path(start)
    if path.is_dir():
        known = dataclasses.replace(model, cache_indicator=False) if start == "nano" else model
        weights = dict(open_student(path, known).tensors)
        if known != model:  # nano has no indicator: a new one
            fresh = init_parameters(model, seed=seed)
            weights |= {name: fresh[name] for name in fresh if name not in weights}
        if text:
            own = load_file(str(path / "text.safetensors"))
            weights |= {TEXT + k: v.float() for k, v in own.items()}
        return weights
    data = read_checkpoint(path)
    if "names" in data:
        product = load_product(path)
        return {k: v for k, v in product.items() if not k.startswith("aux.")}
    return dict(open_student(path, model).tensors)
