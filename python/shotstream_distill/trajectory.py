"""Few-step distillation: the student learns where its teacher's guided path ends.

Called by ``python -m shotstream_distill distill-nano``. The teacher, a finished flow-matching run,
walks from noise to a picture through the student's own noise levels, guided by text and context;
from every state of the walk, and from one state the student itself would have reached by
re-noising, the student must predict the end. History is the data's or, as often, filmed by the
student. Keys and values of context and history are computed once per walk.

Source: the ODE initialisation of ShotStream (CausVid), with states of the student added.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from .bank import CONTEXT_FRAMES, Batch, LatentBank
from .fast_student import Parameters
from .flow import coarse_error, expand, motion_error, roughen
from .nano_state import Draws, NanoState
from .own_film import Filming, Walker
from .paper.processes import Processes, join
from .paper.product import load_product
from .recipe import DistillConfig
from .working_dtype import working_dtype

_log = logging.getLogger("shotstream_distill.trajectory")
_REPORT_S = 30.0


def unconditional(batch: Batch, shared: Tensor) -> tuple[Batch, Tensor]:
    """Take the context away the way training dropped it; history stays.

    Guidance away from this side strengthens what the context says as well as the text. With the
    context on both sides, guidance on the text alone wears the scene's tint away.
    """
    blind = torch.cat((torch.zeros_like(shared[:, :CONTEXT_FRAMES]), shared[:, CONTEXT_FRAMES:]), 1)
    flags = torch.ones_like(batch.flags)
    flags[:, :CONTEXT_FRAMES] = 0
    return dataclasses.replace(batch, flags=flags), blind


class TrajectoryTrainer:
    """The loop."""

    CHECKPOINT = "distilled.pt"

    def __init__(
        self,
        config: DistillConfig,
        run: Path,
        bank: LatentBank,
        teacher: Parameters,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self._run = run
        self._bank = bank
        self._teacher = {name: value.to(working_dtype()) for name, value in teacher.items()}
        self._filming = Filming(config.model, shot_phase=config.shot_phase)
        self.state = NanoState(
            config.model, muon_rate=config.muon_rate, adam_rate=config.adam_rate, seed=config.seed,
            processes=processes,
        )  # fmt: skip
        self.state.start_from(teacher)
        self._draws = Draws(config.seed, self.state)

    def _guidance(self, batch: Batch) -> Tensor:
        """Return the weight of guidance on every noisy frame, ``[B, frames, 1, 1, 1]``."""
        config, positions = self.config, batch.positions[:, batch.shared.shape[1] :]
        later = positions >= CONTEXT_FRAMES + batch.group_frames
        return expand(torch.where(later, config.later_guidance, config.guidance))

    def _walk(
        self, teachers: tuple[Walker, Walker], x: Tensor, first: int, guidance: Tensor
    ) -> list[Tensor]:
        """Guided Euler steps from level ``first`` to the end; returns the states at the levels."""
        states, parts = [x], self.config.substeps
        for high, low in pairwise(self._filming.levels[first:]):
            fall = (low - high) / parts
            for part in range(parts):
                guided, free = (walker.flow(x, high + part * fall) for walker in teachers)
                x = x + fall * (free + guidance * (guided - free))
            states.append(x)
        return states

    def _lived(self, batch: Batch) -> Tensor:
        """Return shared frames whose history is the data's or, as often as told, the student's."""
        if self._draws.common.random() < self.config.own_history:
            return self._filming.relive(self.state.working, batch)
        return batch.shared

    @torch.no_grad()
    def _lessons(self, batch: Batch, shared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states ``[B, n, frames, ...]``, their levels ``[n]`` and ends, alike."""
        teachers = (
            self._filming.walker(self._teacher, batch, shared),
            self._filming.walker(self._teacher, *unconditional(batch, shared), text=False),
        )
        guidance = self._guidance(batch)
        walk = self._walk(teachers, torch.randn_like(batch.target), 0, guidance)
        states, levels, ends = walk[:-1], self._filming.levels[:-1], [walk[-1]] * (len(walk) - 1)
        # One more state: the student's answer a level earlier, re-noised as the runtime does.
        index = self._draws.common.randrange(1, len(states))
        before, level = self._filming.levels[index - 1], self._filming.levels[index]
        student = self._filming.walker(self.state.working, batch, shared)
        answer = student.clean(states[index - 1], before)
        own = (1 - level) * answer + level * torch.randn_like(answer)
        states.append(own)
        levels.append(level)
        ends.append(self._walk(teachers, own, index, guidance)[-1])
        return torch.stack(states, 1), torch.tensor(levels), torch.stack(ends, 1)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of the ends, coarse errors and motion weighed up."""
        with torch.no_grad():
            relived = dataclasses.replace(batch, shared=self._lived(batch))
            shared = roughen(relived, self.config.history_noise)
        states, levels, ends = self._lessons(batch, shared)
        size, count, frames = states.shape[:3]
        cut = shared.shape[1]
        noisy = states.flatten(1, 2)
        times = levels.repeat_interleave(frames).expand(size, -1)

        def repeat(value: Tensor) -> Tensor:
            return torch.cat((value[:, :cut], *[value[:, cut:]] * count), 1)

        many = dataclasses.replace(
            batch,
            groups=batch.groups * count,
            caption_index=repeat(batch.caption_index),
            positions=repeat(batch.positions),
            flags=repeat(batch.flags),
            visible=batch.visible * count,
        )
        p = self.state.working
        captions = self._filming.captions(p, batch)
        flow, _ = self._filming.model(p, many.sequence(noisy, times, shared), captions)
        difference = noisy - expand(times) * flow - ends.flatten(1, 2)
        area = batch.maps[:, :, :, 0].repeat(1, count, 1, 1, 1)
        coarse = coarse_error(difference, area)
        error = difference.square().mean() + self.config.coarse_weight * coarse
        if self.config.motion_weight:
            motion = motion_error(difference, difference.new_ones(()), batch.group_frames)
            error = error + self.config.motion_weight * motion
        return error

    def train(self, duration_s: float) -> None:
        """Train until ``duration_s`` is spent (time before a resume counts)."""
        config, state = self.config, self.state
        clock = time.process_time if config.computing_time else time.monotonic
        checkpoint = self._run / self.CHECKPOINT
        if checkpoint.is_file():
            state.load(checkpoint)
            self._draws = Draws(config.seed, state)
            _log.info("resumed at step %d, %.0f s", state.step, state.elapsed_s)
        begun = clock() - state.elapsed_s
        saved = logged = clock()
        losses: list[float] = []
        while (progress := state.processes.told((clock() - begun) / duration_s)) < 1:
            layout = self._draws.common.choice(config.layouts)
            loss = self.loss(self._bank.sample(layout, self._draws.own))
            loss.backward()
            warm = min(1.0, (state.step + 1) / config.warmup_steps)
            state.apply(warm * (1 - 0.95 * progress), config.average)
            losses.append(loss.item())
            now = clock()
            if now - logged > _REPORT_S:
                _log.info(
                    "step %d, %.2f s/step, eta %.0f s: loss %.4f", state.step,
                    (now - logged) / len(losses), duration_s - (now - begun),
                    sum(losses) / len(losses),
                )  # fmt: skip
                logged, losses = now, []
            if now - saved > config.checkpoint_s:
                saved = now
                state.elapsed_s = now - begun
                state.save(checkpoint)
        state.elapsed_s = duration_s
        state.save(checkpoint)


def distill_nano(
    run: Path,
    bank: Path,
    minutes: float,
    config: DistillConfig | None = None,
    start: Path | None = None,
) -> None:
    """Run or resume the distillation of ``flow.pt`` in the same run folder.

    Args:
        run: folder of checkpoints.
        bank: folder of latent shards.
        minutes: time of this part in total.
        config: the recipe.
        start: checkpoint whose weights a new run begins with instead of the teacher's.
    """
    torch.set_num_threads(1)
    teacher = load_product(run / "flow.pt")
    config = config or DistillConfig()
    with join("cpu") as processes:
        trainer = TrajectoryTrainer(config, run, LatentBank(bank), teacher, processes)
        if start is not None:
            trainer.state.start_from(load_product(start))
        trainer.train(minutes * 60)
