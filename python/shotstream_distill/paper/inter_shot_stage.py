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

from shotstream_rt.context import frames_wanted, pick_context

from .draw import Draw
from .matching_stage import MatchingStage
from .rollout import roll_out
from .shot_batch import Conditioning, ShotBatch, Words, condition
from .stage_config import DmdConfig
from .workshop import StepLoss, Weights, Workshop

_SHEET_STORIES = 2


class Film:
    """Stories in the making: their words, and what later shots may see of the shots so far.

    Args:
        shop: shared parts.
        words: captions of all shots.
        frames: latent frames of a shot.
    """

    def __init__(self, shop: Workshop, words: Words, frames: int) -> None:
        model = shop.config.stream.model
        self._shop, self.words, self._frames = shop, words, frames
        self._shape = (model.in_dim, model.latent_height, model.latent_width)
        self._budget = shop.config.stream.cache.context_frames
        self._pictures = 1 + shop.codec.temporal_stride * (frames - 1)
        self._choice = shop.config.stream.cache.context_choice
        self._wanted = frames_wanted(self._pictures, self._budget, self._choice)
        self.kept: list[Tensor] = []

    def batch(self) -> ShotBatch:
        """Return the next shot to make; its target is empty but for its shape."""
        count, number = len(self.words), len(self.kept)
        device = self._shop.processes.device
        shots = torch.zeros(count, self._budget, dtype=torch.long)
        context = torch.zeros(count, self._budget, *self._shape, device=device)
        if number:
            picks = pick_context([self._pictures] * number, self._budget, self._choice)
            shots = torch.tensor([[shot for shot, _ in picks]]).expand(count, -1).clone()
            columns = [self.kept[shot][:, self._wanted.index(frame)] for shot, frame in picks]
            context = torch.stack(columns, 1)
        return ShotBatch(
            context=context,
            target=context.new_zeros(count, self._frames, *self._shape),
            words=self.words,
            shots=(number,) * count,
            context_shots=shots,
        )

    @torch.no_grad()
    def remember(self, latents: Tensor) -> None:
        """Decode a finished shot and encode the frames that later shots may see, one by one."""
        codec, kept = self._shop.codec, []
        for shot in latents:
            frames = codec.decode_full(shot[None])[0, self._wanted]
            kept.append(codec.encode_frames(frames).float())
        self.kept.append(torch.stack(kept).to(latents.device))


class InterShotStage(MatchingStage):
    """Shot after shot of a story, the context made by the student."""

    def __init__(
        self, shop: Workshop, config: DmdConfig, student: Weights, teacher: Weights
    ) -> None:
        super().__init__(shop, config, student, teacher)
        self._film: Film | None = None

    def loss(self, step: int, draw: Draw) -> StepLoss:
        """Loss on the next shot of the story; afterwards the shot is remembered."""
        config, shop = self._config, self._shop
        film = self._film
        if film is None:
            words = shop.source.stories(draw, config.batch, config.shots)
            film = self._film = Film(shop, words, config.frames)
        dropped = draw.hits(config.batch, config.context_drop)
        told, plain = self._condition(film, dropped)
        plan = shop.plan(config.frames)
        loss, shot, exit_step = self._match.step(step, told, plain, plan, draw)
        if len(film.kept) == config.shots - 1:
            self._film = None  # nobody sees a story's last shot
            return loss
        if exit_step < plan.steps - 1 and not shop.config.quirks.history_from_exit:
            # What later shots see must look like what inference would show them.
            with torch.no_grad():
                shot = roll_out(self._match.student, told, plan, draw)
        film.remember(shot)
        return loss

    @torch.no_grad()
    def judge(self, draw: Draw) -> Tensor:
        """Return what the critic has learned, over a story's first two shots."""
        shop, config = self._shop, self._config
        words = shop.source.stories(draw, config.batch, config.shots)
        film = Film(shop, words, config.frames)
        figures: list[Tensor] = []
        for number in range(min(2, config.shots)):
            told, _ = self._condition(film, [False] * config.batch)
            figure, shot = self._match.judge(told, shop.plan(config.frames), draw)
            figures.append(figure)
            if number + 1 < config.shots:
                film.remember(shot)
        return torch.stack(figures).mean()

    def _condition(self, film: Film, dropped: list[bool]) -> tuple[Conditioning, Conditioning]:
        batch = film.batch()
        with torch.no_grad():
            captions = self._text.captions(film.words, [False] * len(film.words))
            free = self._text.unconditional(film.words)
        told = condition(batch, captions, dropped=dropped, quirks=self._shop.config.quirks)
        return told, told.replaced(free)

    @torch.no_grad()
    def sheet(self, draw: Draw) -> tuple[ShotBatch, Tensor]:
        """Film two stories and show each one's last shot with the context it had."""
        shop, config = self._shop, self._config
        words = shop.source.stories(draw, _SHEET_STORIES, config.shots)
        film = Film(shop, words, config.frames)
        for shot in range(config.shots):
            told, _ = self._condition(film, [False] * _SHEET_STORIES)
            made = roll_out(self._match.student, told, shop.plan(config.frames), draw)
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

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on with a story; an empty memory begins a new one."""
        self._film = None
        if not memory:
            return
        words = memory["words"]
        told = words if isinstance(words, Tensor) else tuple(tuple(w) for w in words)
        self._film = Film(self._shop, told, self._config.frames)
        device = self._shop.processes.device
        self._film.kept = [kept.to(device) for kept in memory["kept"]]
