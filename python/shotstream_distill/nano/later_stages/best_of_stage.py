"""Teaches a few-step student the best of several answers of its own.

Called by ``python -m shotstream_distill choose-nano``. Guidance away from what the caption does not
say brings hats back, but all of it costs characters: most pictures need none, and some need much.
So a few answers are tried at every late level of each chunk: pushed by different weights away from
the answer to the caption with other clothes, towards the answer to it in one sentence, both in fine
structure alone, and away from the answer to it with other coats. The reader of facts
(``fact_reader``) sees each through noise, and right is the one in which it finds most of what the
caption asks; distance from the plain answer counts against it. No gradient goes through the reader,
so that the student can only learn what it can already draw.

Source: expert iteration (Anthony et al. 2017): a search improves the policy, and is distilled.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError

from ...common.processes import Processes
from ...common.sequence import Parameters
from ...world.bank import CONTEXT_FRAMES, Batch, LatentBank
from ...world.caption_rewrites import one_sentence, other_clothes, other_coats
from ..recipe import BestOfConfig
from .fact_reader import FactReader, asked, log_likelihood, mentioned
from .self_taught import SelfTaughtTrainer, fine

_LEAST_NOISE, _MOST_NOISE = 0.1, 0.4
"""Of what the reader sees."""


class BestOfTrainer(SelfTaughtTrainer):
    """The loop.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        bank: where contexts, captions and facts come from.
        start: the student to begin with.
        reader: trained; it does not learn here.
        processes: that average their gradients.
    """

    CHECKPOINT = "chosen.pt"
    config: BestOfConfig

    def __init__(
        self, config: BestOfConfig, run: Path, bank: LatentBank, start: Parameters,
        reader: FactReader, processes: Processes | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, run, bank, start, processes)
        self._reader = reader.eval().requires_grad_(False)
        levels = len(self._filming.levels) - 1
        if not 0 <= config.first_level < levels:
            raise ConfigError(f"first_level: got {config.first_level}, wanted 0 to {levels - 1}")
        if (0.0, 0.0, 0.0) not in config.pushes:
            raise ConfigError(f"pushes: got {config.pushes}, wanted (0, 0, 0), the answer as it is")

    @torch.no_grad()
    def _targets(self, batch: Batch, shared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states ``[B, levels, frames, ...]``, their levels and the chosen answers there."""
        config, levels = self.config, self._filming.levels[:-1]
        states, pushes = self._states(batch, shared), torch.tensor(config.pushes)
        told, said, clothes, coats = (
            self._told(batch, shared, how)
            for how in (list, one_sentence, other_clothes, other_coats)
        )
        ends = []
        for index, (x, level) in enumerate(zip(states, levels, strict=True)):
            end = told.clean(x, level)
            if index >= config.first_level:
                ways = (
                    fine(end - clothes.clean(x, level)),
                    fine(said.clean(x, level) - end),
                    end - coats.clean(x, level),
                )
                tried = end + torch.einsum("kw,w...->k...", pushes, torch.stack(ways))
                end = self._best(batch, tried, end)
            ends.append(end)
        return torch.stack(states, 1), torch.tensor(levels), torch.stack(ends, 1)

    def _best(self, batch: Batch, tried: Tensor, plain: Tensor) -> Tensor:
        """Choose for every chunk of ``tried [K, B, frames, C, h, w]``."""
        size, frames = plain.shape[:2]
        distance = (tried - plain).square().mean((-3, -2, -1))
        score = self._found(batch, tried) - self.config.distance_weight * distance
        best = score.unflatten(2, (batch.groups, batch.group_frames)).mean(-1).argmax(0)
        best = best.repeat_interleave(batch.group_frames, 1)
        return tried[best, torch.arange(size)[:, None], torch.arange(frames)]

    def _found(self, batch: Batch, tried: Tensor) -> Tensor:
        """Read ``tried`` in the same noise; return the log-likelihood ``[K, B, frames]``."""
        count, size, frames = tried.shape[:3]
        level = _LEAST_NOISE + (_MOST_NOISE - _LEAST_NOISE) * torch.rand(size, frames)
        sigma = level[..., None, None, None]
        seen = (1 - sigma) * tried + sigma * torch.randn_like(tried[0])
        wanted = asked(batch.facts, None, frames, mentioned(batch)).flat().repeated(count)
        first = batch.positions[:, -frames:].flatten() == CONTEXT_FRAMES
        reading = self._reader(
            seen.flatten(0, 2), level.flatten().repeat(count), first.repeat(count),
            wanted.species, wanted.color,
        )  # fmt: skip
        return log_likelihood(reading, wanted).view(count, size, frames)
