"""Trains the reader of facts on drawn latents under noise.

Called by ``python -m shotstream_distill train-reader``.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from .bank import CONTEXT_FRAMES, Batch, LatentBank, Layout
from .fact_reader import (
    MOST_NOISE,
    Asked,
    FactReader,
    Reading,
    answers,
    asked,
    load_reader,
    losses,
    noised,
)
from .flow import auxiliary_loss

_log = logging.getLogger("shotstream_distill.train_reader")

_LAYOUT = Layout(batch=20, context=1, group_frames=1, groups=4)
_TEST_LAYOUT = Layout(batch=48, context=1, group_frames=1, groups=4)
_TEST_LEVELS = (0.1, 0.3, 0.5)
_REPORT_S = 30.0
_SHADE = 0.15
_LEAST_SHARDS = 2


def read(reader: FactReader, batch: Batch, level: Tensor) -> tuple[Reading, Asked]:
    """Read a batch's frames at noise levels ``[B * frames]``; returns that and what is true."""
    frames = batch.target.shape[1]
    wanted = asked(batch.facts, batch.maps, frames).flat()
    first = batch.positions[:, -frames:].flatten() == CONTEXT_FRAMES
    x = noised(batch.target.flatten(0, 1), level)
    return reader(x, level, first, wanted.species, wanted.color), wanted


def varied(batch: Batch, rng: random.Random) -> Batch:
    """Shift a batch's frames by a cell or two and shade each of its samples.

    Without it a reader of few stories knows each by its light and its place, and remembers what
    was worn there instead of looking.
    """
    right, down = rng.randint(-2, 2), rng.randint(-1, 1)

    def shifted(x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        edged = F.pad(x.flatten(0, -4), (2, 2, 1, 1), mode="replicate")
        cut = edged[..., 1 - down : 1 - down + height, 2 - right : 2 - right + width]
        out: Tensor = cut.unflatten(0, x.shape[:-3])
        return out

    size, _, channels = batch.target.shape[:3]
    shade = _SHADE * torch.randn(size, 1, channels, 1, 1)
    return dataclasses.replace(
        batch, target=shifted(batch.target) + shade, maps=shifted(batch.maps)
    )


@torch.no_grad()
def accuracy(reader: FactReader, batch: Batch, level: float) -> dict[str, float]:
    """Share of right answers by fact, on frames at one noise level."""
    count = batch.target.shape[0] * batch.target.shape[1]
    reading, wanted = read(reader, batch, torch.full((count,), level))
    judged = wanted.present >= 0
    right = (reading.present > 0) == (wanted.present > 0)
    scores = {"present": right[judged].float().mean().item()}
    for name, (logits, true) in answers(reading, wanted).items():
        known = true >= 0
        same = logits.argmax(-1) == true
        scores[name] = same[known].float().mean().item()
    return scores


def train_reader(
    folder: Path,
    out: Path,
    minutes: float,
    *,
    start: Path | None = None,
    rate: float = 1.5e-3,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Train a reader and write its weights.

    Args:
        folder: latent bank; its last shard is kept for the test.
        out: file to write, whole or not at all.
        minutes: wall time.
        start: weights to begin with.
        rate: largest learning rate.
        seed: of weights, batches and noise.

    Returns:
        Share of right answers on the shard kept, by noise level and fact.

    Raises:
        ValueError: fewer than two shards.
        WeightsError: ``start`` is no reader.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    names = sorted(p.name for p in folder.glob("*.pt"))
    if len(names) < _LEAST_SHARDS:
        raise ValueError(
            f"{folder}: got {len(names)} shards, wanted two shards at least, the last one for the "
            "test; make-bank makes them"
        )
    bank = LatentBank(folder, names=names[:-1])
    test = LatentBank(folder, names=names[-1:]).sample(_TEST_LAYOUT, random.Random(1))
    reader = load_reader(start) if start is not None else FactReader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=rate, weight_decay=0.02)
    begun = logged = time.monotonic()
    sums: dict[str, list[float]] = {}
    steps = 0
    while (progress := (time.monotonic() - begun) / (60 * minutes)) < 1:
        batch = varied(bank.sample(_LAYOUT, rng), rng)
        level = MOST_NOISE * torch.rand(batch.target.shape[0] * batch.target.shape[1])
        reading, wanted = read(reader, batch, level)
        parts = losses(reading, wanted)
        dense = reading.dense.unflatten(0, batch.target.shape[:2])
        parts["dense"] = auxiliary_loss(dense, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (steps + 1) / 50, (1 - progress) / 0.5 + 0.02)
        optimizer.step()
        steps += 1
        for name, value in parts.items():
            sums.setdefault(name, []).append(value.item())
        if time.monotonic() - logged > _REPORT_S:
            logged = time.monotonic()
            told = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in sums.items())
            _log.info("step %d, eta %.0f s: %s", steps, 60 * minutes - (logged - begun), told)
            sums = {}
    partial = out.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in reader.state_dict().items()}, str(partial))
    partial.replace(out)
    return {str(level): accuracy(reader.eval(), test, level) for level in _TEST_LEVELS}
