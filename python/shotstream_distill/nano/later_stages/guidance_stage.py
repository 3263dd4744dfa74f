"""Teaches a few-step student what guidance would make of its own last steps.

Called by ``python -m shotstream_distill guide-nano``. A distilled student draws at each level what
its teacher's paths end in on average, and an average is soft where they differ. What captions and
context change in its answers is in them, but too faintly; guided by the difference its films are
better, at twice the cost. Here the student learns to make them unguided: on states of its own
films, right is the guided answer of the initial student.

How a caption is said matters to it as well. Told as a story, which describes a character and names
it again in the shot, the student keeps colours best; told in one sentence, with the clothes beside
the character in the shot, clothes. So right goes on from the answer to the story, which is what the
student is given, towards the answer to the sentence, in fine structure alone: clothes are small,
and of who is in the shot the story knows more.

Source: the distillation of guidance (Meng et al. 2023), applied to a few-step student itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError

from ...common.processes import Processes
from ...common.sequence import Parameters
from ...world.bank import Batch, LatentBank
from ...world.caption_rewrites import one_sentence
from ..recipe import GuidanceConfig
from ..trajectory import unconditional
from .self_taught import SelfTaughtTrainer, fine


class GuidanceTrainer(SelfTaughtTrainer):
    """The loop; arguments as those of ``SelfTaughtTrainer``.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        bank: where contexts and captions come from.
        start: the student to begin with.
        processes: that average their gradients.
    """

    CHECKPOINT = "guided.pt"
    config: GuidanceConfig

    def __init__(
        self, config: GuidanceConfig, run: Path, bank: LatentBank, start: Parameters,
        processes: Processes | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, run, bank, start, processes)
        levels = len(self._filming.levels) - 1
        for name in ("level_guidance", "level_wording"):
            if len(given := getattr(config, name)) != levels:
                raise ConfigError(f"{name}: got {given}, wanted a weight for each of {levels}")

    @torch.no_grad()
    def _targets(self, batch: Batch, shared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states ``[B, levels, frames, ...]``, their levels and the guided answers there."""
        filming, config = self._filming, self.config
        states = self._states(batch, shared)
        plain = filming.walker(self._teacher, *unconditional(batch, shared), text=False)
        told, said = self._told(batch, shared), self._told(batch, shared, one_sentence)
        levels, ends = filming.levels[:-1], []
        weights = zip(config.level_guidance, config.level_wording, strict=True)
        for x, level, (guidance, wording) in zip(states, levels, weights, strict=True):
            answer = end = told.clean(x, level)
            if guidance:
                end = end + guidance * (answer - plain.clean(x, level))
            if wording:
                end = end + wording * fine(said.clean(x, level) - answer)
            ends.append(end)
        return torch.stack(states, 1), torch.tensor(levels), torch.stack(ends, 1)
