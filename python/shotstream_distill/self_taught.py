"""What the stages share in which a student learns from its own answers.

On states of its own films right is an answer of the student begun with, changed in some direction
(``self_guidance``, ``choice``), or its answer to more words (``recall``). That is no drawn picture,
which a few steps could only foresee on average: the squared error costs no detail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .bank import Batch, LatentBank
from .fast_student import Parameters
from .nano_stage import run_stage
from .own_film import Walker
from .paper.processes import Processes
from .recipe import SelfTaughtConfig
from .retelling import known_words, retold
from .trajectory import TrajectoryTrainer

_FINE = 5
"""Cells of a side of the square whose mean is not fine structure."""


def fine(latents: Tensor) -> Tensor:
    """Return what is left of ``[B, F, C, h, w]`` after subtracting the means of 5 x 5 cells."""
    flat = latents.flatten(0, 1)
    coarse = F.avg_pool2d(flat, _FINE, 1, _FINE // 2, count_include_pad=False)
    return (flat - coarse).view_as(latents)


class SelfTaughtTrainer(TrajectoryTrainer):
    """The distillation's loop with lessons of the student's own; subclasses say which.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        bank: where contexts and captions come from; its targets teach nothing here.
        start: the student to begin with. Words that it does not know are left out of captions.
        processes: that average their gradients.
    """

    config: SelfTaughtConfig

    def __init__(
        self, config: SelfTaughtConfig, run: Path, bank: LatentBank, start: Parameters,
        processes: Processes | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, run, bank, start, processes)
        self._words = len(start["text.embedding.weight"])
        self._begun = {name: value.clone() for name, value in self.state.averaged().items()}

    def write_product(self, path: Path) -> None:
        """Write what ships: weights between the student begun with and the one learned."""
        self.state.write_between(path, self._begun, self.config.way)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of the lessons' answers, coarse errors weighed up."""
        tokens = known_words(batch.tokens, self._words)
        return super().loss(replace(batch, tokens=tokens, lengths=(tokens > 0).sum(-1)))

    def _told(
        self, batch: Batch, shared: Tensor, how: Callable[[Sequence[str]], list[str]] = list
    ) -> Walker:
        """Let the student begun with read the captions, in other words if told how."""
        tokens = retold(batch.tokens, how)
        batch = replace(batch, tokens=tokens, lengths=(tokens > 0).sum(-1))
        return self._filming.walker(self._teacher, batch, shared)

    def _states(self, batch: Batch, shared: Tensor) -> list[Tensor]:
        """Return the states ``[B, frames, C, h, w]`` at each level of a film of the student's."""
        student = self._filming.walker(self.state.working, batch, shared)
        return self._filming.answer(student, torch.randn_like(batch.target))[1]


def teach_itself(
    trainer: type[SelfTaughtTrainer], recipe: SelfTaughtConfig, run: Path, bank: Path,
    minutes: float, *, start: str = "nano",
) -> Path:  # fmt: skip
    """Run or resume a stage whose trainer needs nothing but the student.

    Args:
        trainer: of the stage.
        recipe: the trainer's.
        run: folder of checkpoints, made if missing.
        bank: folder of latent shards.
        minutes: time of this part in total.
        start: ``nano``, a student folder or a checkpoint to begin with.

    Returns:
        The file of what ships.
    """
    return run_stage(
        run, minutes, start, recipe, lambda weights, processes:
        trainer(recipe, run, LatentBank(bank), weights, processes),
    )  # fmt: skip
