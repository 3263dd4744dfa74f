"""What the stages share in which a student learns from its own answers.

On states of its own films right is an answer of the initial student, changed in some direction
(``guidance_stage``, ``best_of_stage``), or its answer to more words (``omission_stage``). A drawn
picture would be another matter: a few steps foresee it on average only, and the squared error would
cost detail. An answer of the student itself costs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...common.processes import Processes
from ...common.sequence import Parameters
from ...world.bank import Batch, LatentBank
from ...world.caption_rewrites import known_words, retold
from ..own_film import Walker
from ..recipe import SelfTaughtConfig
from ..trajectory import TrajectoryTrainer

_FINE = 5
"""Cells of a side of the square whose mean is not fine structure."""


def fine(latents: Tensor) -> Tensor:
    """Return what is left of ``[B, F, C, h, w]`` after subtracting the means of 5 x 5 cells."""
    flat = latents.flatten(0, 1)
    coarse = F.avg_pool2d(flat, _FINE, 1, _FINE // 2, count_include_pad=False)
    return (flat - coarse).view_as(latents)


class SelfTaughtTrainer(TrajectoryTrainer):
    """The distillation's loop with targets of the student's own; subclasses say which.

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

    def write_product(self, path: Path) -> dict[str, Any]:
        """Write weights between the initial student and the one learned; no figures."""
        self.state.write_between(path, self._begun, self.config.way)
        return {}

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error against the targets, coarse errors weighed up."""
        tokens = known_words(batch.tokens, self._words)
        return super().loss(replace(batch, tokens=tokens, lengths=(tokens > 0).sum(-1)))

    def _told(
        self, batch: Batch, shared: Tensor, how: Callable[[Sequence[str]], list[str]] = list
    ) -> Walker:
        """Let the initial student read the captions, in other words if told how."""
        tokens = retold(batch.tokens, how)
        batch = replace(batch, tokens=tokens, lengths=(tokens > 0).sum(-1))
        return self._filming.walker(self._teacher, batch, shared)

    def _states(self, batch: Batch, shared: Tensor) -> list[Tensor]:
        """Return the states ``[B, frames, C, h, w]`` at each level of a film of the student's."""
        student = self._filming.walker(self.state.working, batch, shared)
        return self._filming.answer(student, torch.randn_like(batch.target))[1]
