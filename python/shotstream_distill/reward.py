"""Lets a finished few-step student learn from what a reader misses in its own pictures.

Called by ``python -m shotstream_distill reward-nano``. The student films as it will in a session,
on history of its own; at one of its levels in each chunk its prediction of the clean picture is
read through noise (``fact_reader``) for what the caption asks, and told from drawn ones
(``discriminator``). Gradients go through that one prediction. What neither of them minds stays:
the distance from the student begun with costs as well.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .bank import CONTEXT_FRAMES, Batch, LatentBank
from .discriminator import Discriminator
from .fact_reader import FactReader, asked, load_reader, losses, mentioned, noised
from .fast_student import Parameters
from .flow import coarse_error
from .nano_stage import run_stage
from .nano_state import Draws, NanoState
from .own_film import Filming
from .paper.processes import Processes
from .paper.product import write_whole
from .recipe import RewardConfig
from .working_dtype import working_dtype

_log = logging.getLogger("shotstream_distill.reward")
_REPORT_S = 30.0
_LEAST_READ, _LEAST_JUDGED = 0.22, 0.05
"""Least noise: mottled coats that please a reader are gone in it, but not for the discriminator."""


def windows(batch: Batch, shared: Tensor, groups: Tensor) -> Tensor:
    """Put each group behind the frame before it: ``[B * groups, 1 + group_frames, C, h, w]``.

    A first chunk has none; its own first frame stands in, drawn or made alike.
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


class RewardTrainer:
    """The loop.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        bank: where shots come from.
        start: the student to begin with. It may know fewer words: captions with others are not
            held to what it makes of them.
        reader: trained; it does not learn here.
        processes: that average their gradients.
    """

    def __init__(
        self, config: RewardConfig, run: Path, bank: LatentBank, start: Parameters,
        reader: FactReader, processes: Processes | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self._run = run
        self._bank = bank
        self._reader = reader.eval().requires_grad_(False)
        self._filming = Filming(config.model, shot_phase=config.shot_phase)
        self.state = NanoState(
            config.model, muon_rate=config.muon_rate, adam_rate=config.adam_rate, seed=config.seed,
            processes=processes,
        )  # fmt: skip
        self.state.start_from(start)
        self._words = len(start["text.embedding.weight"])
        self._begun = {name: value.clone() for name, value in self.state.averaged().items()}
        self._first = {name: value.to(working_dtype()) for name, value in self._begun.items()}
        self._draws = Draws(config.seed, self.state)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._judge = Discriminator()
        self._judge_optimizer = torch.optim.AdamW(
            self._judge.parameters(), lr=config.judge_rate, betas=(0.0, 0.99), weight_decay=0.01
        )
        self._parts: dict[str, list[float]] = {}

    def loss(self, batch: Batch) -> Tensor:
        """Return the student's loss on a batch, having taught the discriminator with it."""
        config, p = self.config, self.state.working
        size, count = len(batch.target), batch.group_frames
        with torch.no_grad():
            lived = self._draws.common.random() < config.own_history
            shared = self._filming.relive(p, batch) if lived else batch.shared
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
        for name, value in {**facts, "anchor": anchor, "judge": taught, "fooled": fooled}.items():
            self._parts.setdefault(name, []).append(value.item())
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

    def train(self, duration_s: float) -> None:
        """Train until ``duration_s`` is spent (time before a resume counts)."""
        config, state = self.config, self.state
        self._resume()
        begun = time.monotonic() - state.elapsed_s
        saved = logged = time.monotonic()
        while (progress := state.processes.told((time.monotonic() - begun) / duration_s)) < 1:
            layout = self._draws.common.choice(config.layouts)
            self.loss(self._bank.sample(layout, self._draws.own)).backward()
            warm = (state.step + 1 - config.judge_warmup) / config.warmup_steps
            fall = min(1.0, (1 - progress) / (1 - config.decay_from))
            state.apply(min(1.0, max(0.0, warm)) * (0.05 + 0.95 * fall), config.average)
            now = time.monotonic()
            if now - logged > _REPORT_S:
                told = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in self._parts.items())
                _log.info(
                    "step %d, %.2f s/step, eta %.0f s: %s", state.step,
                    (now - logged) / len(self._parts["anchor"]), duration_s - (now - begun), told,
                )  # fmt: skip
                logged, self._parts = now, {}
            if now - saved > config.checkpoint_s:
                saved = now
                self._save(now - begun)
        self._save(duration_s)

    def _save(self, elapsed_s: float) -> None:
        """Write the student, then the discriminator it can go on with."""
        self.state.elapsed_s = elapsed_s
        self.state.save(self._run / "rewarded.pt")
        if self.state.processes.leads:
            judge = {
                "judge": self._judge.state_dict(),
                "optimizer": self._judge_optimizer.state_dict(),
            }
            write_whole(self._run / "judge.pt", judge)

    def write_product(self, path: Path) -> None:
        """Write what ships: weights between the student begun with and the one learned.

        Walks shrink on the way, and coats lose some of their colour. Half of it keeps nearly all.
        """
        self.state.write_between(path, self._begun, self.config.way)

    def _resume(self) -> None:
        checkpoint = self._run / "rewarded.pt"
        if not checkpoint.is_file():
            return
        self.state.load(checkpoint)
        judge = torch.load(self._run / "judge.pt", weights_only=True)
        self._judge.load_state_dict(judge["judge"])
        self._judge_optimizer.load_state_dict(judge["optimizer"])
        self._draws = Draws(self.config.seed, self.state)
        _log.info("resumed at step %d, %.0f s", self.state.step, self.state.elapsed_s)


def reward_nano(
    run: Path, bank: Path, minutes: float, reader: Path, *, start: str = "nano",
    config: RewardConfig | None = None,
) -> Path:  # fmt: skip
    """Run or resume the stage.

    Args:
        run: folder of checkpoints, made if missing.
        bank: folder of latent shards.
        minutes: time of this part in total.
        reader: weights of ``train-reader``.
        start: ``nano``, a student folder or a checkpoint to begin with.
        config: the recipe.

    Returns:
        The file of what ships.
    """
    recipe = config or RewardConfig()
    seen_by = load_reader(reader)
    return run_stage(
        run, minutes, start, recipe, lambda weights, processes:
        RewardTrainer(recipe, run, LatentBank(bank), weights, seen_by, processes),
    )  # fmt: skip
