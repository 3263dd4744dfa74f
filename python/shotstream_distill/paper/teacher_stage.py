"""Stage 1: the bidirectional next-shot teacher, by flow matching.

Driven by the trainer. Clean context frames stand in front of the noisy shot; captions are chosen
per shot; context and prompts are dropped at random, so that the network can be guided.

Source: ShotStream teacher training (``wan_frame_concat``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..common.product import TEXT, Weights
from ..common.step_rng import StepRng
from .learner import Learner
from .levels import draw_levels, mean_square, mix
from .sampler import sample_states, teacher_flow
from .shot_batch import Conditioning, ShotBatch, condition, told_target_caption
from .stage_config import TeacherConfig
from .stage_services import StageServices, StepLoss
from .text_side import NanoText

_SHEET_STEPS, _SHEET_GUIDANCE = 20, 2.5


class TeacherStage:
    """The teacher and what trains it.

    Args:
        services: shared parts.
        config: of this stage.
        weights: to start from.
    """

    def __init__(self, services: StageServices, config: TeacherConfig, weights: Weights) -> None:
        self._services, self._config, self._start = services, config, weights
        only = "self_attn" if config.trains == "self_attention" else ""
        self._net = services.trainable(weights, only=only)
        self._text = services.text_side(weights, learns=config.trains == "all")
        modules: dict[str, nn.Module] = {"": self._net}
        if isinstance(self._text, NanoText):
            modules[TEXT] = self._text.net
        self.learners = {"teacher": Learner(modules, config.optimizer, services.processes, weights)}

    def condition(self, batch: ShotBatch, rng: StepRng) -> Conditioning:
        """Decide what a batch's frames are told, with drops."""
        config, count = self._config, len(batch.shots)
        captions = self._text.captions(batch.words, rng.hits(count, config.text_drop))
        quirks = self._services.config.quirks
        dropped = rng.hits(count, config.context_drop)
        told = condition(batch, captions, dropped=dropped, quirks=quirks)
        return told_target_caption(told) if quirks.last_caption_only else told

    def loss(self, step: int, rng: StepRng) -> StepLoss:
        """Flow-matching loss of one micro-batch."""
        config, services = self._config, self._services
        batch = services.source.shots(rng, config.batch, config.frames)
        schedule = services.schedule
        times, levels = draw_levels(
            schedule, rng, config.batch, rounded=services.config.quirks.rounded_times
        )
        noise = rng.normal_like(batch.target)
        flow = teacher_flow(
            self._net, self.condition(batch, rng), mix(batch.target, noise, levels), times,
            context_clean=services.config.context_clean,
        )  # fmt: skip
        error = mean_square(flow - (noise - batch.target))
        weights = torch.ones_like(error)
        if config.weighting == "bell":
            weights = schedule.loss_weights()[schedule.lookup(times)].to(error)
        return StepLoss(learner="teacher", loss=(weights * error).mean())

    def judge(self, rng: StepRng) -> Tensor:
        """Return the loss itself."""
        return self.loss(0, rng).loss

    @torch.no_grad()
    def sheet(self, rng: StepRng) -> tuple[ShotBatch, Tensor]:
        """Sample a few shots with guidance."""
        services, config = self._services, self._config
        batch, told = services.shots_to_show(self._text, rng, config.frames)
        *_, shot = sample_states(
            self._net, told, told.replaced(self._text.unconditional(batch.words)),
            rng.normal_like(batch.target), steps=_SHEET_STEPS, guidance=_SHEET_GUIDANCE,
            shift=services.config.stream.schedule.shift,
            context_clean=services.config.context_clean,
        )  # fmt: skip
        return batch, shot

    def product(self) -> Weights:
        """Return the teacher and the text encoder as they would ship."""
        return {**self._start, **self.learners["teacher"].shipped()}

    def memory(self) -> dict[str, Any]:
        """Nothing besides the learner."""
        return {}

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Nothing to take over."""
