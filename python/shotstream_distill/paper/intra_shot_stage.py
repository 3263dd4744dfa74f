"""Stage 2.2.1: self-forcing distribution matching within one shot, after true context.

Driven by the trainer.

Source: ShotStream stage 1 (``score_distillation_frameconcat``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.step_rng import StepRng
from .matching_stage import MatchingStage
from .rollout import roll_out
from .shot_batch import Conditioning, ShotBatch, condition
from .stage_services import StepLoss


class IntraShotStage(MatchingStage):
    """One shot at a time, its context taken from the data."""

    def loss(self, step: int, rng: StepRng) -> StepLoss:
        """Loss of the student or of the critic, whose turn it is."""
        told, plain = self._condition(rng)
        plan = self._services.plan(self._config.frames)
        return self._match.step(step, told, plain, plan, rng)[0]

    @torch.no_grad()
    def judge(self, rng: StepRng) -> Tensor:
        """Return what the critic has learned; see ``ScoreMatch.judge``."""
        told, _ = self._condition(rng)
        return self._match.judge(told, self._services.plan(self._config.frames), rng)[0]

    def _condition(self, rng: StepRng) -> tuple[Conditioning, Conditioning]:
        config, services = self._config, self._services
        batch = services.source.shots(rng, config.batch, config.frames)
        with torch.no_grad():
            captions = self._text.captions(batch.words, [False] * config.batch)
            free = self._text.unconditional(batch.words)
        dropped = rng.hits(config.batch, config.context_drop)
        told = condition(batch, captions, dropped=dropped, quirks=services.config.quirks)
        return told, told.unguided(free, config.guides)

    @torch.no_grad()
    def sheet(self, rng: StepRng) -> tuple[ShotBatch, Tensor]:
        """Roll a few shots out."""
        services, frames = self._services, self._config.frames
        batch, told = services.shots_to_show(self._text, rng, frames)
        return batch, roll_out(self._match.student, told, services.plan(frames), rng)

    def memory(self) -> dict[str, Any]:
        """Nothing besides the learners."""
        return {}

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Nothing to take over."""
