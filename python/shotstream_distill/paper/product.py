"""A stage's product on disk, and where weights come from.

Called by the run. A product is one file that ``shotstream_distill.ship`` also reads: names and
values (the running average where there is one), whole, float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import WeightsError
from shotstream_rt.model.loading import NANO_FOLDER
from shotstream_rt.model.nano_text import NanoTextNet
from shotstream_rt.model.weights import read_checkpoint, student_state

from ..initial import init_parameters
from .workshop import TEXT, Weights


def save_product(path: Path, weights: Weights, *, steps: int, train_s: float, stage: str) -> None:
    """Write a product in one move."""
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
        weights = dict(student_state(path, known))
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
    return dict(student_state(path, model))
