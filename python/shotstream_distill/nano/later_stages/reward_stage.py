"""Lets a finished few-step student learn from what a reader misses in its own pictures.

Called by ``python -m shotstream_distill reward-nano``. The student films as it will in a session,
on history of its own; at one of its levels in each chunk its prediction of the clean picture is
read through noise (``fact_reader``) for what the caption asks, and distinguished from drawn
ones (``discriminator``). Gradients go through that one prediction. The distance
from the initial student is penalised as well, so that everything else stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...common.processes import Processes
from ...common.product import write_whole
from ...common.sequence import Parameters
from ...common.working_dtype import working_dtype
from ...world.bank import CONTEXT_FRAMES, Batch, LatentBank, Layout
from ..losses import coarse_error
from ..own_film import Filming
from ..recipe import RewardConfig
from ..state import NanoState
from ..trainer import NanoTrainer
from .discriminator import Discriminator
from .fact_reader import FactReader, asked, losses, mentioned, noised

_JUDGE = "judge.pt"
_LEAST_READ, _LEAST_JUDGED = 0.22, 0.05
"""Least noise: mottled coats that please a reader are gone in it, but not for the discriminator."""


def windows(batch: Batch, shared: Tensor, groups: Tensor) -> Tensor:
    """Put each group behind the frame before it: ``[B * groups, 1 + group_frames, C, h, w]``.

    A first chunk has none; its own first frame stands in, drawn or made alike.

    Args:
        batch: whose groups they are.
        shared: context and history ``[B, frames, C, h, w]``.
        groups: their frames ``[B, groups * group_frames, C, h, w]``.
    """
    size = batch.group_frames
    seen = batch.visible or (batch.context,) * batch.groups
    made = []
    for index, visible in enumerate(seen):
        group = groups[:, index * size : (index + 1) * size]
        before = shared[:, visible - 1 : visible] if visible > batch.context else group[:, :1]
        made.append(torch.cat((before, group), 1))
    return torch.stack(made, 1).flatten(0, 1)


def seen_through(times: Tensor, least: float) -> Tensor:
    """Draw the noise levels that predictions from levels ``times`` are judged through.

    An early prediction is judged by what is left of it under more noise: its detail is not yet
    its own.
    """
    return least + torch.rand_like(times) * (0.2 + 0.3 * times)


class RewardTrainer(NanoTrainer[NanoState]):
    """Training for what a reader sees, held to the initial student.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        bank: where shots come from.
        start: the student to begin with. It may know fewer words: captions with others are not
            held to what it makes of them.
        reader: trained; it does not learn here.
        processes: that average their gradients.
    """

    CHECKPOINT = "rewarded.pt"

    def __init__(
        self, config: RewardConfig, run: Path, bank: LatentBank, start: Parameters,
        reader: FactReader, processes: Processes | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self._reader = reader.eval().requires_grad_(False)
        self._filming = Filming(config.model, shot_phase=config.shot_phase)
        state = NanoState(
            config.model, muon_rate=config.muon_rate, adam_rate=config.adam_rate, seed=config.seed,
            processes=processes,
        )  # fmt: skip
        state.start_from(start)
        super().__init__(run, bank, state, seed=config.seed, checkpoint_s=config.checkpoint_s)
        self._words = len(start["text.embedding.weight"])
        self._begun = {name: value.clone() for name, value in self.state.averaged().items()}
        self._first = {name: value.to(working_dtype()) for name, value in self._begun.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._judge = Discriminator()
        self._judge_optimizer = torch.optim.AdamW(
            self._judge.parameters(), lr=config.judge_rate, betas=(0.0, 0.99), weight_decay=0.01
        )

    def loss(self, batch: Batch) -> Tensor:
        """Return the student's loss on a batch, having taught the discriminator with it."""
        config, p = self.config, self.state.working
        size, count = len(batch.target), batch.group_frames
        with torch.no_grad():
            own_history = self._rng.common.random() < config.own_history
            shared = self._filming.film_history(p, batch) if own_history else batch.shared
            student = self._filming.walker(p, batch, shared)
            states = self._filming.answer(student, torch.randn_like(batch.target))[1]
            index = torch.randint(len(states), (size, batch.groups)).repeat_interleave(count, 1)
            rows, frames = torch.arange(size)[:, None], torch.arange(index.shape[1])
            noisy = torch.stack(states, 2)[rows, frames, index]
            times = torch.tensor(self._filming.levels)[index]
            before = self._filming.walker(self._first, batch, shared).clean(noisy, times)
        clean = student.with_captions(self._filming.captions(p, batch)).clean(noisy, times)

        facts = self._missed(batch, clean, times)
        made, drawn = windows(batch, shared, clean), windows(batch, batch.shared, batch.target)
        level = seen_through(times[:, ::count].flatten(), _LEAST_JUDGED)
        noise = torch.randn_like(made)
        taught = self._teach(made.detach(), drawn, level, noise)
        self._judge.requires_grad_(False)
        fooled = F.softplus(-self._judged(made, level, noise)).mean()
        self._judge.requires_grad_(True)
        known = (batch.tokens < self._words).flatten(1).all(1)[:, None, None, None, None]
        moved = (clean - before) * known
        anchor = moved.square().mean() + config.coarse_weight * coarse_error(moved)
        self.note({**facts, "anchor": anchor, "judge": taught, "fooled": fooled})
        missed = torch.stack([facts[name] * weight for name, weight in config.facts]).sum()
        return config.anchor * anchor + config.reader * missed + config.judge * fooled

    def _missed(self, batch: Batch, clean: Tensor, times: Tensor) -> dict[str, Tensor]:
        """Read predictions for what their captions ask; returns the cross-entropy of each fact."""
        frames = clean.shape[1]
        wanted = asked(batch.facts, None, frames, mentioned(batch)).flat()
        first = batch.positions[:, -frames:].flatten() == CONTEXT_FRAMES
        level = seen_through(times.flatten(), _LEAST_READ)
        seen = noised(clean.flatten(0, 1), level)
        return losses(self._reader(seen, level, first, wanted.species, wanted.color), wanted)

    def _judged(self, x: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        sigma = level[:, None, None, None, None]
        logits: Tensor = self._judge((1 - sigma) * x + sigma * noise, level)
        return logits

    def _teach(self, made: Tensor, drawn: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Let the discriminator take one step; drawn and made pictures hide in the same noise."""
        loss = F.softplus(self._judged(made, level, noise)).mean()
        loss = loss + F.softplus(-self._judged(drawn, level, noise)).mean()
        self._judge_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.state.processes.average_gradients(list(self._judge.parameters()))
        self._judge_optimizer.step()
        return loss.detach()

    def layout(self, progress: float) -> Layout:
        """Draw one of the recipe's layouts."""
        return self._rng.common.choice(self.config.layouts)

    def step(self, batch: Batch, progress: float) -> None:
        """Take one step; at first the discriminator learns alone."""
        config = self.config
        self.loss(batch).backward()
        warm = (self.state.step + 1 - config.judge_warmup) / config.warmup_steps
        fall = min(1.0, (1 - progress) / (1 - config.decay_from))
        self.state.apply(min(1.0, max(0.0, warm)) * (0.05 + 0.95 * fall), config.average)

    def save(self, elapsed_s: float) -> None:
        """Write the student, then the discriminator it can go on with."""
        super().save(elapsed_s)
        if self.state.processes.leads:
            judge = {
                "judge": self._judge.state_dict(),
                "optimizer": self._judge_optimizer.state_dict(),
            }
            write_whole(self._run / _JUDGE, judge)

    def resume(self, checkpoint: Path) -> None:
        """Go on from the student and the discriminator written together."""
        super().resume(checkpoint)
        judge = torch.load(self._run / _JUDGE, weights_only=True)
        self._judge.load_state_dict(judge["judge"])
        self._judge_optimizer.load_state_dict(judge["optimizer"])

    def write_product(self, path: Path) -> dict[str, Any]:
        """Write weights between the initial student and the one learned; no figures.

        Walks shrink as the student learns, and coats lose some of their colour. Half of what it
        learned keeps nearly all of both.
        """
        self.state.write_between(path, self._begun, self.config.way)
        return {}
