"""A network that the context gate examines: teacher or student, with its text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.config import StreamConfig
from shotstream_rt.plan.schedule import Schedule

from ..common.product import start_weights
from ..paper.network import TrainNet
from ..paper.quirks import Quirks
from ..paper.shot_batch import ShotBatch, condition, told_target_caption
from ..paper.stage_services import network_of, text_of
from ..paper.text_side import NanoText
from ..world.bank import CONTEXT_FRAMES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examinee:
    """A network with its text encoder, and what it is told.

    Attributes:
        net: the network.
        text: its captions.
        stream: schedule and chunk of its student.
        bidirectional: one group of context and target (teachers), instead of context, then chunk.
        context_clean: context frames are told time 0 (as every student's are).
        quirks: the run's.
    """

    net: TrainNet
    text: NanoText
    stream: StreamConfig
    bidirectional: bool = False
    context_clean: bool = True
    quirks: Quirks = Quirks()  # noqa: RUF009 - frozen

    @classmethod
    def load(
        cls, source: str | Path, stream: StreamConfig, *, bidirectional: bool = False,
        context_clean: bool = True, quirks: Quirks | None = None,
    ) -> Examinee:  # fmt: skip
        """Read ``nano``, a student folder, or a checkpoint with names and averages.

        Args:
            source: ``nano``, a student folder or a checkpoint.
            stream: shapes and schedule.
            bidirectional: whether it is a teacher.
            context_clean: whether context frames are told time 0.
            quirks: of the run; default: none.

        Raises:
            WeightsError: it is missing, broken or of another shape.
        """
        weights = start_weights(str(source), stream.model, text=True, seed=0)
        net, text = network_of(weights, stream), text_of(weights)
        return cls(
            net=net.requires_grad_(False), text=NanoText(text.requires_grad_(False)),
            stream=stream, bidirectional=bidirectional, context_clean=context_clean,
            quirks=quirks or Quirks(),
        )  # fmt: skip

    @torch.no_grad()
    def predict(self, batch: ShotBatch, noise: Tensor, *, with_context: bool) -> Tensor:
        """Predict clean target latents from noisy ones at the student's second level.

        Args:
            batch: scenes, clean.
            noise: in the shape of ``batch.target``.
            with_context: whether the context is given or dropped.
        """
        schedule = Schedule.from_config(self.stream.schedule)
        level = schedule.sigmas[min(1, len(schedule.sigmas) - 1)]
        time = schedule.timesteps[min(1, len(schedule.timesteps) - 1)]
        count, frames = batch.target.shape[:2]
        captions = self.text.captions(batch.words, [False] * count)
        dropped = [not with_context] * count
        told = condition(batch, captions, dropped=dropped, quirks=self.quirks)
        if self.quirks.last_caption_only and self.bidirectional:
            told = told_target_caption(told)
        times = torch.full((count, CONTEXT_FRAMES + frames), float(time))
        if self.context_clean or not self.bidirectional:
            times[:, :CONTEXT_FRAMES] = 0
        groups = [CONTEXT_FRAMES + frames] if self.bidirectional else [CONTEXT_FRAMES, frames]
        noisy = (1 - level) * batch.target + level * noise
        flow, _ = self.net(told.whole(noisy, times, groups))
        clean: Tensor = noisy - level * flow[:, CONTEXT_FRAMES:]
        return clean
