"""Stage 2.2.2: self-forcing distribution matching along a story the student films itself.

Driven by the trainer. Only captions come from the data. A step is one shot: its context is picked
from the frames made in this story so far; after the step the shot is decoded and remembered, and
the next step films the next one.

Source: ShotStream stage 2 (``score_distillation_frameconcat_stream``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.product import Weights
from ..common.step_rng import StepRng
from .film import Film
from .matching_stage import MatchingStage
from .rollout import roll_out
from .shot_batch import Conditioning, ShotBatch, Words, condition
from .stage_config import DmdConfig
from .stage_services import StageServices, StepLoss

_SHEET_STORIES = 2


class InterShotStage(MatchingStage):
    """Shot after shot of a story, the context made by the student.

    Args:
        services: shared parts.
        config: of the stage.
        student: weights to begin with.
        teacher: weights of the scores.
    """

    def __init__(
        self, services: StageServices, config: DmdConfig, student: Weights, teacher: Weights
    ) -> None:
        super().__init__(services, config, student, teacher)
        self._film: Film | None = None

    def loss(self, step: int, rng: StepRng) -> StepLoss:
        """Loss on the next shot of the story; afterwards the shot is remembered."""
        config, services = self._config, self._services
        film = self._film
        if film is None:
            words = services.source.stories(rng, config.batch, config.shots)
            film = self._film = self._begin(words)
        dropped = rng.hits(config.batch, config.context_drop)
        told, plain = self._condition(film, dropped)
        plan = services.plan(config.frames)
        loss, shot, exit_step = self._match.step(step, told, plain, plan, rng)
        if len(film.kept) == config.shots - 1:
            self._film = None  # nobody sees a story's last shot
            return loss
        if exit_step < plan.steps - 1 and not services.config.quirks.history_from_exit:
            # What later shots see must look like what inference would show them.
            with torch.no_grad():
                shot = roll_out(self._match.student, told, plan, rng)
        film.remember(shot)
        return loss

    @torch.no_grad()
    def judge(self, rng: StepRng) -> Tensor:
        """Return what the critic has learned, over a story's first two shots."""
        services, config = self._services, self._config
        words = services.source.stories(rng, config.batch, config.shots)
        film = self._begin(words)
        figures: list[Tensor] = []
        for number in range(min(2, config.shots)):
            told, _ = self._condition(film, [False] * config.batch)
            figure, shot = self._match.judge(told, services.plan(config.frames), rng)
            figures.append(figure)
            if number + 1 < config.shots:
                film.remember(shot)
        return torch.stack(figures).mean()

    def _begin(self, words: Words) -> Film:
        services = self._services
        return Film(
            services.codec,
            services.config.stream,
            words,
            self._config.frames,
            services.processes.device,
        )

    def _condition(self, film: Film, dropped: list[bool]) -> tuple[Conditioning, Conditioning]:
        batch = film.batch()
        with torch.no_grad():
            captions = self._text.captions(film.words, [False] * len(film.words))
            free = self._text.unconditional(film.words)
        told = condition(batch, captions, dropped=dropped, quirks=self._services.config.quirks)
        return told, told.unguided(free, self._config.guides)

    @torch.no_grad()
    def sheet(self, rng: StepRng) -> tuple[ShotBatch, Tensor]:
        """Film two stories and show each one's last shot with the context it had."""
        services, config = self._services, self._config
        words = services.source.stories(rng, _SHEET_STORIES, config.shots)
        film = self._begin(words)
        for shot in range(config.shots):
            told, _ = self._condition(film, [False] * _SHEET_STORIES)
            made = roll_out(self._match.student, told, services.plan(config.frames), rng)
            if shot == config.shots - 1:
                return film.batch(), made
            film.remember(made)
        raise AssertionError("a story has at least one shot")

    def memory(self) -> dict[str, Any]:
        """Return the story in the making; each process has its own."""
        film = self._film
        if film is None:
            return {}
        words = film.words if isinstance(film.words, Tensor) else [list(w) for w in film.words]
        return {"words": words, "kept": [kept.cpu() for kept in film.kept]}

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Go on with a story; an empty memory begins a new one."""
        self._film = None
        if not memory:
            return
        words = memory["words"]
        told = words if isinstance(words, Tensor) else tuple(tuple(w) for w in words)
        self._film = self._begin(told)
        device = self._services.processes.device
        self._film.kept = [kept.to(device) for kept in memory["kept"]]
