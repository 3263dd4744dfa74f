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
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..common.processes import Processes, join
from ..common.product import load_product
from ..common.sequence import Parameters
from ..common.working_dtype import working_dtype
from ..world.bank import CONTEXT_FRAMES, Batch, LatentBank, Layout
from .losses import coarse_error, expand, motion_error, roughen
from .own_film import Filming, Walker
from .recipe import DistillConfig
from .state import NanoState
from .trainer import NanoTrainer


def unconditional(batch: Batch, shared: Tensor) -> tuple[Batch, Tensor]:
    """Take the context away the way training dropped it; history stays.

    Guidance away from this side strengthens what the context says as well as the text. With the
    context on both sides, guidance on the text alone wears the scene's tint away.
    """
    blind = torch.cat((torch.zeros_like(shared[:, :CONTEXT_FRAMES]), shared[:, CONTEXT_FRAMES:]), 1)
    flags = torch.ones_like(batch.flags)
    flags[:, :CONTEXT_FRAMES] = 0
    return dataclasses.replace(batch, flags=flags), blind


class TrajectoryTrainer(NanoTrainer[NanoState]):
    """Distillation of a teacher's guided walks into the student's few steps.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        bank: where sequences come from.
        teacher: weights that walk, and that the student begins with.
        processes: that average their gradients, each on its own batches.
    """

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
        self._teacher = {name: value.to(working_dtype()) for name, value in teacher.items()}
        self._filming = Filming(config.model, shot_phase=config.shot_phase)
        state = NanoState(
            config.model, muon_rate=config.muon_rate, adam_rate=config.adam_rate, seed=config.seed,
            processes=processes,
        )  # fmt: skip
        state.start_from(teacher)
        super().__init__(
            run, bank, state, seed=config.seed, checkpoint_s=config.checkpoint_s,
            computing_time=config.computing_time,
        )  # fmt: skip

    def layout(self, progress: float) -> Layout:
        """Draw one of the recipe's layouts."""
        return self._rng.common.choice(self.config.layouts)

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

    def _with_own_history(self, batch: Batch) -> Tensor:
        """Return shared frames whose history is the data's or, as often as told, the student's."""
        if self._rng.common.random() < self.config.own_history:
            return self._filming.film_history(self.state.working, batch)
        return batch.shared

    @torch.no_grad()
    def _targets(self, batch: Batch, shared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states ``[B, n, frames, ...]``, their levels ``[n]`` and ends, alike."""
        teachers = (
            self._filming.walker(self._teacher, batch, shared),
            self._filming.walker(self._teacher, *unconditional(batch, shared), text=False),
        )
        guidance = self._guidance(batch)
        walk = self._walk(teachers, torch.randn_like(batch.target), 0, guidance)
        states, levels, ends = walk[:-1], self._filming.levels[:-1], [walk[-1]] * (len(walk) - 1)
        # One more state: the student's answer a level earlier, re-noised as the runtime does.
        index = self._rng.common.randrange(1, len(states))
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
            relived = dataclasses.replace(batch, shared=self._with_own_history(batch))
            shared = roughen(relived, self.config.history_noise)
        states, levels, ends = self._targets(batch, shared)
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

    def step(self, batch: Batch, progress: float) -> None:
        """Take one step; the rates fall linearly to a twentieth."""
        loss = self.loss(batch)
        loss.backward()
        warm = min(1.0, (self.state.step + 1) / self.config.warmup_steps)
        self.state.apply(warm * (1 - 0.95 * progress), self.config.average)
        self.note({"loss": loss})


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
