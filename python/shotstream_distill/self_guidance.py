"""Teaches a few-step student what guidance would make of its own last steps.

Called by ``python -m shotstream_distill guide-nano``. A distilled student draws at each level what
its teacher's paths end in on average, and an average is soft where they differ. What captions and
context change in its answers is in them, but too faintly; guided by the difference its films are
better, at twice the cost. Here the student learns to make them unguided: on states of its own
films, right is the guided answer of the student begun with. That is a function of what the student
is given, so that the squared error costs no detail.

How a caption is said matters to it as well. Told as a story, which describes a character and names
it again in the shot, the student keeps colours best; told in one sentence, with the clothes beside
the character in the shot, clothes. So right goes on from the answer to the story, which is what the
student is given, towards the answer to the sentence, in fine structure alone: clothes are small,
and of who is in the shot the story knows more.

Source: the distillation of guidance (Meng et al. 2023), applied to a few-step student itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.model.nano_vocabulary import (
    ACTIONS,
    FRAMINGS,
    PLACES,
    TIMES,
    TOKEN_IDS,
    TOKENS,
    Named,
    named,
    split_story,
)

from .bank import Batch, LatentBank
from .fast_student import Parameters
from .paper.processes import Processes, join
from .paper.product import start_weights
from .recipe import GuideConfig
from .trajectory import TrajectoryTrainer, unconditional

PRODUCT = "student.pt"
"""File of what ships, in the run's folder."""

_LONGER = 8
"""Tokens by which the one-sentence form of a caption may be longer."""

_FINE = 5
"""Cells of a side of the square whose mean is not fine structure."""


def known_words(tokens: Tensor, words: int) -> Tensor:
    """Leave out tokens from ``words`` on and close the gaps, as the runtime does."""
    known = tokens.where(tokens < words, 0)
    return known.gather(-1, torch.argsort((known == 0).long(), dim=-1, stable=True))


def _told_by(one: Named, before: Sequence[Named]) -> tuple[str, ...]:
    """Return a character's tokens with what was said of it before, if that is clear."""
    said = {(other.color, other.worn) for other in before if one.may_be(other)}
    if len(said) != 1:
        return one.tokens
    ((color, worn),) = said
    return replace(one, color=one.color or color, worn=one.worn or worn).tokens


def one_sentence(tokens: Sequence[str]) -> list[str]:
    """Say a story's caption in its scene alone, whose characters are described there.

    Place, time, framing and action are repeated where the scene names none.
    """
    description, sentences = split_story(tokens)
    if not description:
        return list(tokens)
    before = [one for sentence in description for one in named(sentence)]
    scene: list[str] = []
    for sentence in sentences:
        if scene:
            scene.append(".")
        end = 0
        for one in named(sentence):
            scene += [*sentence[end : one.begin], *_told_by(one, before)]
            end = one.end
        scene += sentence[end:]
    for kind in (FRAMINGS, ACTIONS, PLACES, TIMES):
        if not set(kind) & set(scene):
            scene += dict.fromkeys(token for token in chain(*description) if token in kind)
    return scene


def in_one_sentence(tokens: Tensor) -> Tensor:
    """Apply ``one_sentence`` to captions of token ids, padded with 0, ``[..., L]``."""
    length = tokens.shape[-1] + _LONGER
    rows = []
    for row in tokens.flatten(0, -2).tolist():
        said = one_sentence([TOKENS[index] for index in row if index])
        ids = [TOKEN_IDS[token] for token in said][:length]
        rows.append(ids + [0] * (length - len(ids)))
    return torch.tensor(rows).view(*tokens.shape[:-1], length)


def fine(latents: Tensor) -> Tensor:
    """Return what is left of ``[B, F, C, h, w]`` after subtracting the means of 5 x 5 cells."""
    flat = latents.flatten(0, 1)
    coarse = F.avg_pool2d(flat, _FINE, 1, _FINE // 2, count_include_pad=False)
    return (flat - coarse).view_as(latents)


class SelfGuidanceTrainer(TrajectoryTrainer):
    """The distillation's loop with other lessons.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        bank: where contexts and captions come from; its targets teach nothing here.
        start: the student to begin with. Words that it does not know are left out of captions.
        processes: that average their gradients.
    """

    CHECKPOINT = "guided.pt"
    config: GuideConfig

    def __init__(
        self, config: GuideConfig, run: Path, bank: LatentBank, start: Parameters,
        processes: Processes | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, run, bank, start, processes)
        levels = len(self._filming.levels) - 1
        for name in ("level_guidance", "level_wording"):
            if len(given := getattr(config, name)) != levels:
                raise ConfigError(f"{name}: got {given}, wanted a weight for each of {levels}")
        self._words = len(start["text.embedding.weight"])
        self._begun = {name: value.clone() for name, value in self.state.averaged().items()}

    def write_product(self, path: Path) -> None:
        """Write what ships: weights between the student begun with and the one learned."""
        self.state.write_between(path, self._begun, self.config.way)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of the guided answers, coarse errors weighed up."""
        tokens = known_words(batch.tokens, self._words)
        return super().loss(replace(batch, tokens=tokens, lengths=(tokens > 0).sum(-1)))

    @torch.no_grad()
    def _lessons(self, batch: Batch, shared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states ``[B, levels, frames, ...]``, their levels and the guided answers there."""
        filming, config = self._filming, self.config
        student = filming.walker(self.state.working, batch, shared)
        states = filming.answer(student, torch.randn_like(batch.target))[1]
        plain = filming.walker(self._teacher, *unconditional(batch, shared), text=False)
        tokens = in_one_sentence(batch.tokens)
        retold = replace(batch, tokens=tokens, lengths=(tokens > 0).sum(-1))
        told, said = (filming.walker(self._teacher, one, shared) for one in (batch, retold))
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


def guide_nano(
    run: Path, bank: Path, minutes: float, *, start: str = "nano",
    config: GuideConfig | None = None,
) -> None:  # fmt: skip
    """Run or resume the stage.

    Args:
        run: folder of checkpoints, made if missing.
        bank: folder of latent shards.
        minutes: time of this part in total.
        start: ``nano``, a student folder or a checkpoint to begin with.
        config: the recipe.
    """
    torch.set_num_threads(1)
    run.mkdir(parents=True, exist_ok=True)
    config = config or GuideConfig()
    weights = start_weights(start, config.model, text=True, seed=config.seed)
    with join("cpu") as processes:
        trainer = SelfGuidanceTrainer(config, run, LatentBank(bank), weights, processes)
        trainer.train(minutes * 60)
        trainer.write_product(run / PRODUCT)
