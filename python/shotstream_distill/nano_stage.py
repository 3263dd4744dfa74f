"""Runs a stage of nano's training that begins with a finished student and leaves another.

Called by the stages ``reward``, ``choice`` and those of ``self_taught``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from .fast_student import Parameters
from .paper.processes import Processes, join
from .paper.product import start_weights
from .recipe import RewardConfig, SelfTaughtConfig

PRODUCT = "student.pt"
"""File of what ships, in the run's folder."""


class StageTrainer(Protocol):
    """A stage's loop."""

    def train(self, seconds: float) -> None:
        """Go on until the stage has had this much time in total."""

    def write_product(self, path: Path) -> None:
        """Write what ships."""


def run_stage(
    run: Path, minutes: float, start: str, config: SelfTaughtConfig | RewardConfig,
    trainer: Callable[[Parameters, Processes], StageTrainer],
) -> Path:  # fmt: skip
    """Run or resume a stage and write what ships.

    Args:
        run: folder of checkpoints, made if missing.
        minutes: time of this part in total.
        start: ``nano``, a student folder or a checkpoint to begin with.
        config: the recipe.
        trainer: makes the loop of the student begun with, for the processes that take part.

    Returns:
        The file of what ships.
    """
    torch.set_num_threads(1)
    run.mkdir(parents=True, exist_ok=True)
    weights = start_weights(start, config.model, text=True, seed=config.seed)
    with join("cpu") as processes:
        stage = trainer(weights, processes)
        stage.train(minutes * 60)
        stage.write_product(run / PRODUCT)
    return run / PRODUCT
