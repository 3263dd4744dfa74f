"""Flow matching of the nano student: single frames, then chunks, causally from the start.

Called by ``python -m shotstream_distill train-nano``. The recipe's stages share one loop and one
checkpoint. Few-step distillation follows in ``trajectory``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..common.processes import Processes, join
from ..common.product import load_product
from ..world.bank import Batch, LatentBank, Layout
from .fast_student import FastStudent
from .losses import (
    auxiliary_loss,
    coarse_error,
    expand,
    motion_error,
    roughen,
    subject_weights,
)
from .recipe import TrainConfig
from .state import CaptionEmbedder, NanoState
from .trainer import NanoTrainer


def shifted(u: Tensor, shift: float) -> Tensor:
    """Map uniform noise levels toward noise: ``shift u / (1 + (shift - 1) u)``."""
    return shift * u / (1 + (shift - 1) * u)


class FlowTrainer(NanoTrainer[NanoState]):
    """Flow matching in the stages of a recipe.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        bank: where sequences come from.
        processes: that average their gradients, each on its own batches.
    """

    CHECKPOINT = "flow.pt"

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        bank: LatentBank,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self.model = FastStudent(config.model, shot_phase=config.shot_phase)
        self.text = CaptionEmbedder()
        state = NanoState(
            config.model, muon_rate=config.muon_rate, adam_rate=config.adam_rate, seed=config.seed,
            processes=processes,
        )  # fmt: skip
        super().__init__(
            run, bank, state, seed=config.seed + 1, checkpoint_s=config.checkpoint_s,
            computing_time=config.computing_time,
        )  # fmt: skip

    def layout(self, progress: float) -> Layout:
        """Draw one of the present stage's layouts."""
        for stage in self.config.stages:
            if progress < stage.share:
                return self._rng.common.choice(stage.layouts)
            progress -= stage.share
        return self._rng.common.choice(self.config.stages[-1].layouts)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the flow-matching loss and the auxiliary loss of a batch."""
        config, target = self.config, batch.target
        size, frames = target.shape[:2]
        times = shifted(torch.rand(size, frames // batch.group_frames), config.shift)
        times = times.repeat_interleave(batch.group_frames, 1)
        noise = torch.randn_like(target)
        noisy = (1 - expand(times)) * target + expand(times) * noise
        captions = self.text(self.state.working, batch, torch.rand(size) >= config.text_drop)
        sequence = batch.sequence(noisy, times, roughen(batch, config.history_noise))
        flow, logits = self.model(self.state.working, sequence, captions)
        weight = subject_weights(batch, config.subject_weight)
        difference = flow - (noise - target)
        error = (difference.square() * weight).mean()
        area = batch.maps[:, :, :, 0]
        error = error + config.coarse_weight * coarse_error(difference, area)
        if config.motion_weight:
            motion = motion_error(difference, weight, batch.group_frames)
            error = error + config.motion_weight * motion
        aux = torch.zeros(()) if logits is None else auxiliary_loss(logits, batch)
        return error, aux

    def step(self, batch: Batch, progress: float) -> None:
        """Take one step; the auxiliary loss fades over the last third."""
        config, state = self.config, self.state
        flow, aux = self.loss(batch)
        aux_weight = config.aux_weight * min(1.0, max(0.0, (1 - progress) / 0.34))
        (flow + aux_weight * aux).backward()
        scale = min(1.0, (state.step + 1) / config.warmup_steps)
        if progress > config.decay_from:
            scale *= 0.05 + 0.95 * (1 - progress) / (1 - config.decay_from)
        state.apply(scale, config.average)
        shape = f"flow {batch.context}+{batch.groups}x{batch.group_frames}"
        self.note({shape: flow, "aux": aux})


def train_flow(
    run: Path,
    bank: Path,
    minutes: float,
    config: TrainConfig | None = None,
    start: Path | None = None,
) -> None:
    """Run or resume the flow-matching part.

    Args:
        run: folder of checkpoints, made if missing.
        bank: folder of latent shards.
        minutes: time of this part in total.
        config: the recipe.
        start: checkpoint whose weights a new run begins with; it can draw already, so only the
            recipe's last stage is trained.
    """
    torch.set_num_threads(1)
    config = config or TrainConfig()
    if start is not None:
        config = replace(config, stages=(replace(config.stages[-1], share=1.0),))
    with join("cpu") as processes:
        run.mkdir(parents=True, exist_ok=True)
        trainer = FlowTrainer(config, run, LatentBank(bank), processes)
        if start is not None:
            trainer.state.start_from(load_product(start))
        trainer.train(minutes * 60)
