"""Stage 2.1: the causal student learns where the teacher's walks end.

Driven by the trainer. Each chunk takes the walk's state at a level of its own; the masked pass over
``[context | chunks]`` must name the end from there. Chunks that drew the end itself are clean
history and are not asked.

Source: ShotStream ODE initialisation (``ode_regression``), after CausVid.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.product import Weights
from ..common.step_rng import StepRng
from .learner import Learner
from .ode_pairs import read_pairs
from .rollout import roll_out
from .shot_batch import ShotBatch, condition
from .stage_config import OdeConfig
from .stage_services import StageServices, StepLoss


class OdeStage:
    """The student and what trains it.

    Args:
        services: shared parts.
        config: of this stage.
        weights: to start from, the teacher's as a rule.
        pairs: folder of trajectories.
        count: how many there are.
    """

    def __init__(
        self, services: StageServices, config: OdeConfig, weights: Weights, pairs: Path, count: int
    ) -> None:
        self._services, self._config, self._start = services, config, weights
        self._pairs, self._count = pairs, count
        self._net = services.trainable(weights)
        self._text = services.text_side(weights)
        self.learners = {
            "student": Learner({"": self._net}, config.optimizer, services.processes, weights)
        }

    def loss(self, step: int, rng: StepRng) -> StepLoss:
        """Regression loss of one micro-batch."""
        config, services = self._config, self._services
        indices = [int(i) for i in rng.indices(config.batch, self._count)]
        pairs = read_pairs(self._pairs, indices, services.processes.device)
        with torch.no_grad():
            captions = self._text.captions(
                pairs.shots.words, rng.hits(config.batch, config.text_drop)
            )
        none = [False] * config.batch
        told = condition(pairs.shots, captions, dropped=none, quirks=services.config.quirks)
        plan = services.plan(config.frames)
        chunks = len(plan.groups)
        times = torch.tensor([*plan.schedule.timesteps, 0.0])
        levels = torch.tensor([*plan.schedule.sigmas, 0.0])
        picked = rng.indices(config.batch * chunks, plan.steps + 1).view(-1, chunks)
        picked = picked.repeat_interleave(plan.chunk_frames, 1)  # [B, F]
        device = services.processes.device
        rows = torch.arange(config.batch)[:, None].to(device)
        columns = torch.arange(config.frames)[None].to(device)
        noisy = pairs.states[rows, picked.to(device), columns]
        front = torch.zeros(config.batch, told.context_frames)
        all_times = torch.cat((front, times[picked]), 1).to(device)
        flow, _ = self._net(told.whole(noisy, all_times, (told.context_frames, *plan.groups)))
        level = levels[picked].to(device)[..., None, None, None]
        answer = noisy - level * flow[:, told.context_frames :]
        error = (answer - pairs.states[:, -1]).square().flatten(2).mean(2)
        asked = (picked < plan.steps).to(error)
        return StepLoss(learner="student", loss=(error * asked).sum() / asked.sum().clamp(min=1))

    def judge(self, rng: StepRng) -> Tensor:
        """Return the loss itself."""
        return self.loss(0, rng).loss

    @torch.no_grad()
    def sheet(self, rng: StepRng) -> tuple[ShotBatch, Tensor]:
        """Roll a few shots out."""
        services, frames = self._services, self._config.frames
        batch, told = services.shots_to_show(self._text, rng, frames)
        return batch, roll_out(self._net, told, services.plan(frames), rng)

    def product(self) -> Weights:
        """Return the student as it would ship."""
        return {**self._start, **self.learners["student"].shipped()}

    def memory(self) -> dict[str, Any]:
        """Nothing besides the learner."""
        return {}

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Nothing to take over."""
