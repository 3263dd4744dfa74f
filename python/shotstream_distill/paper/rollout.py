"""A shot rolled out chunk by chunk through the cached student, as inference does, with gradients.

Called by the self-forcing stages and by sample sheets. Every chunk is denoised from noise to the
exit step; there, and only there, gradients are kept. Then a clean pass leaves the chunk's keys and
values for the chunks behind it.

Source: Self Forcing; ShotStream stage 1 (``score_distillation_frameconcat``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shotstream_rt.plan.schedule import Schedule

from ..common.sequence import Captions
from ..common.step_rng import StepRng
from .network import KeysValues, TrainNet, joined
from .quirks import Quirks
from .shot_batch import Conditioning


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutPlan:
    """What a rollout looks like.

    Attributes:
        schedule: the student's steps.
        frames: latent frames of the shot.
        chunk_frames: latent frames made together.
        quirks: the original's ways.
    """

    schedule: Schedule
    frames: int
    chunk_frames: int
    quirks: Quirks

    @property
    def steps(self) -> int:
        """Denoising steps of a chunk."""
        return len(self.schedule.timesteps)

    @property
    def groups(self) -> list[int]:
        """Frames of each chunk."""
        return [self.chunk_frames] * (self.frames // self.chunk_frames)


def roll_out(
    net: TrainNet,
    conditioning: Conditioning,
    plan: RolloutPlan,
    rng: StepRng,
    *,
    exit_step: int | None = None,
    gradients: bool = False,
) -> Tensor:
    """Make a shot.

    Args:
        net: the student.
        conditioning: context, captions and flags of each sample.
        plan: the rollout.
        rng: noise.
        exit_step: the denoising step whose answer is the chunk; ``None`` is the last.
        gradients: keep them at the exit step.

    Returns:
        float32 latents ``[B, frames, C, h, w]``.
    """
    last = plan.steps - 1 if exit_step is None else exit_step
    captions = conditioning.target_caption()
    with torch.no_grad():
        _, past = net(conditioning.context_pass(), flow=False)
    made: list[Tensor] = []
    batch, _, channels, height, width = conditioning.context.shape
    shape = (batch, plan.chunk_frames, channels, height, width)
    for first in range(0, plan.frames, plan.chunk_frames):
        x = rng.normal(*shape)
        with torch.no_grad():
            for step in range(last):
                answer, _ = _answer(net, conditioning, plan, x, first, step, past, captions)
                level = plan.schedule.sigmas[step + 1]
                x = (1 - level) * answer + level * rng.normal(*shape)
        attached = gradients and plan.quirks.attached_caches
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
            clean, own = _answer(
                net, conditioning, plan, x, first, last, past, captions, keep=attached
            )
        made.append(clean)
        if first + plan.chunk_frames < plan.frames:
            fresh = _refresh(net, conditioning, plan, clean, first, past, captions, rng)
            if attached:
                # The values of the clean pass, the gradients of the exit step.
                fresh = [
                    (new_k + (k - k.detach()), new_v + (v - v.detach()))
                    for (k, v), (new_k, new_v) in zip(own, fresh, strict=True)
                ]
            past = joined(past, fresh)
    return torch.cat(made, 1)


def _answer(
    net: TrainNet,
    conditioning: Conditioning,
    plan: RolloutPlan,
    x: Tensor,
    first: int,
    step: int,
    past: Sequence[KeysValues],
    captions: Captions,
    *,
    keep: bool = False,
) -> tuple[Tensor, list[KeysValues]]:
    """Return the clean chunk that the student sees in ``x``."""
    time, level = plan.schedule.timesteps[step], plan.schedule.sigmas[step]
    frames = conditioning.chunk(x, time, first, captions)
    flow, own = net(frames, past, keep=keep)
    return x - level * flow, own


@torch.no_grad()
def _refresh(
    net: TrainNet,
    conditioning: Conditioning,
    plan: RolloutPlan,
    clean: Tensor,
    first: int,
    past: Sequence[KeysValues],
    captions: Captions,
    rng: StepRng,
) -> list[KeysValues]:
    """Return the keys and values of the clean chunk."""
    x = clean.detach()
    if plan.quirks.refresh_noise:
        level = float(plan.schedule.grid_sigmas[-1])
        x = (1 - level) * x + level * rng.normal_like(x)
    frames = conditioning.chunk(x, plan.schedule.commit_timestep, first, captions)
    own: list[KeysValues] = net(frames, past, flow=False)[1]
    return own
