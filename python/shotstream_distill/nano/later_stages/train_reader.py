"""Trains the reader of facts on drawn latents under noise: the stage ``train-reader``."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from shotstream_rt.errors import ConfigError

from ...common.module_state import ModuleState
from ...common.processes import Processes
from ...world.bank import CONTEXT_FRAMES, Batch, LatentBank, Layout
from ..losses import auxiliary_loss
from ..recipe import ReaderConfig
from ..trainer import NanoTrainer
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

_LAYOUT = Layout(batch=20, context=1, group_frames=1, groups=4)
_TEST_LAYOUT = Layout(batch=48, context=1, group_frames=1, groups=4)
_TEST_LEVELS = (0.1, 0.3, 0.5)
_SHADE = 0.15
_LEAST_SHARDS = 2


def read(reader: FactReader, batch: Batch, level: Tensor) -> tuple[Reading, Asked]:
    """Read a batch's frames at noise levels ``[B * frames]``; returns that and what is true.

    Args:
        reader: the network.
        batch: clean latents and their facts.
        level: noise levels ``[B * frames]``.
    """
    frames = batch.target.shape[1]
    wanted = asked(batch.facts, batch.maps, frames).flat()
    first = batch.positions[:, -frames:].flatten() == CONTEXT_FRAMES
    x = noised(batch.target.flatten(0, 1), level)
    return reader(x, level, first, wanted.species, wanted.color), wanted


def varied(batch: Batch, rng: random.Random) -> Batch:
    """Shift a batch's frames by a cell or two and shade each of its samples.

    Without it a reader of few stories recognises each by its light and its place, and remembers
    what was worn there instead of looking.
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
    """Share of right answers by fact, on frames at one noise level.

    Args:
        reader: the network.
        batch: clean latents and their facts.
        level: noise level of every frame.
    """
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


class ReaderTrainer(NanoTrainer[ModuleState[FactReader]]):
    """Training of the reader on all shards but the last, which is kept for its test.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        folder: of the latent bank.
        start: weights to begin with; by default new ones.
        processes: that average their gradients, each on its own batches.

    Raises:
        ConfigError: fewer than two shards.
        WeightsError: ``start`` is no reader.
    """

    CHECKPOINT = "reader.pt"

    def __init__(
        self, config: ReaderConfig, run: Path, folder: Path, start: Path | None = None,
        processes: Processes | None = None,
    ) -> None:  # fmt: skip
        names = sorted(p.name for p in folder.glob("*.pt"))
        if len(names) < _LEAST_SHARDS:
            raise ConfigError(
                f"{folder}: got {len(names)} shards, wanted two shards at least, the last one for "
                "the test; make-bank makes them"
            )
        self.config = config
        self._test = LatentBank(folder, names=names[-1:])
        torch.manual_seed(config.seed)
        reader = load_reader(start) if start is not None else FactReader()
        super().__init__(
            run, LatentBank(folder, names=names[:-1]), ModuleState(
                reader, rate=config.rate, weight_decay=0.02, processes=processes
            ),
            seed=config.seed, checkpoint_s=config.checkpoint_s,
        )  # fmt: skip

    def layout(self, progress: float) -> Layout:
        """Return the one layout."""
        return _LAYOUT

    def step(self, batch: Batch, progress: float) -> None:
        """Take one step on a batch under noise; the rate falls over the second half."""
        batch = varied(batch, self._rng.own)
        level = MOST_NOISE * torch.rand(batch.target.shape[0] * batch.target.shape[1])
        reading, wanted = read(self.state.module, batch, level)
        parts = losses(reading, wanted)
        dense = reading.dense.unflatten(0, batch.target.shape[:2])
        parts["dense"] = auxiliary_loss(dense, batch)
        torch.stack(list(parts.values())).sum().backward()
        warm = (self.state.step + 1) / self.config.warmup_steps
        self.state.apply(min(1.0, warm, (1 - progress) / 0.5 + 0.02))
        self.note(parts)

    def write_product(self, path: Path) -> dict[str, Any]:
        """Write the reader's weights.

        Returns:
            ``right``: the share of right answers on the shard kept, by noise level and fact.
        """
        reader = self.state.module
        if self.state.processes.leads:
            partial = path.with_suffix(".partial")
            save_file({k: v.contiguous() for k, v in reader.state_dict().items()}, str(partial))
            partial.replace(path)
        batch = self._test.sample(_TEST_LAYOUT, random.Random(1))
        reader.eval()
        return {"right": {str(level): accuracy(reader, batch, level) for level in _TEST_LEVELS}}
