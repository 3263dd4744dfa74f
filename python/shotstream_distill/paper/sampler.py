"""The teacher's sampler: guided Euler steps over a whole shot, the clean context in front.

Called by the making of trajectory pairs, by sample sheets and by the golden test of the teacher.

Source: ShotStream ODE sampler: ``v = v_u + guidance (v_c - v_u)``, ``x += v (sigma' - sigma)``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from shotstream_rt.plan.schedule import Schedule, euler_grid, nearest

from .network import TrainNet
from .shot_batch import Conditioning


def teacher_flow(
    teacher: TrainNet,
    conditioning: Conditioning,
    x: Tensor,
    times: Tensor,
    *,
    context_clean: bool = False,
) -> Tensor:
    """Flow of the target frames, every frame attending to every other.

    Args:
        teacher: a bidirectional network.
        conditioning: what stands in front.
        x: noisy target ``[B, F, C, h, w]``.
        times: ``[B]`` timesteps in [0, 1000].
        context_clean: tell context frames time 0 instead of the target's time.

    Returns:
        float32 like ``x``.
    """
    front, frames = conditioning.context_frames, x.shape[1]
    told = times.to(x.device)[:, None].expand(-1, front + frames)
    if context_clean:
        told = torch.cat((torch.zeros_like(told[:, :front]), told[:, front:]), 1)
    flow, _ = teacher(conditioning.whole(x, told, (front + frames,)))
    out: Tensor = flow[:, front:]
    return out


def guided_flow(
    teacher: TrainNet,
    conditioned: Conditioning,
    plain: Conditioning,
    x: Tensor,
    times: Tensor,
    *,
    guidance: float,
    context_clean: bool = False,
) -> Tensor:
    """Return ``v_u + guidance * (v_c - v_u)``; see ``teacher_flow``.

    Args:
        teacher: the network.
        conditioned: context and captions.
        plain: what guidance leads away from.
        x: noisy latents ``[B, F, C, h, w]``.
        times: timesteps ``[B]`` in [0, 1000].
        guidance: weight; 1 for none.
        context_clean: whether context frames are told time 0.
    """
    free = teacher_flow(teacher, plain, x, times, context_clean=context_clean)
    if guidance == 0:
        return free
    told = teacher_flow(teacher, conditioned, x, times, context_clean=context_clean)
    return free + guidance * (told - free)


@torch.no_grad()
def sample_states(
    teacher: TrainNet,
    conditioned: Conditioning,
    plain: Conditioning,
    x: Tensor,
    *,
    steps: int,
    shift: float,
    guidance: float,
    context_clean: bool = False,
) -> Iterator[Tensor]:
    """Walk from noise to a shot.

    Args:
        teacher: a bidirectional network.
        conditioned: what the shot is to follow.
        plain: the unconditional side.
        x: noise ``[B, F, C, h, w]``.
        steps: Euler steps.
        shift: of the noise levels.
        guidance: weight of the conditional direction.
        context_clean: see ``teacher_flow``.

    Yields:
        The state after each step; the last one is the shot.
    """
    sigmas, times = euler_grid(steps, shift)
    following = [*sigmas.tolist()[1:], 0.0]
    for step in range(steps):
        told = times[step].expand(len(x))
        flow = guided_flow(
            teacher, conditioned, plain, x, told, guidance=guidance, context_clean=context_clean
        )
        x = x + (following[step] - float(sigmas[step])) * flow
        yield x


def student_steps(schedule: Schedule, steps: int, shift: float) -> list[int]:
    """Return which sampler steps start at the student's levels.

    Args:
        schedule: with the student's levels.
        steps: of the sampler.
        shift: of the sampler's levels.

    Raises:
        ValueError: the sampler has no step at one of them.
    """
    times = euler_grid(steps, shift)[1]
    wanted = torch.tensor(schedule.timesteps)
    found = nearest(times, wanted)
    if not torch.allclose(times[found], wanted, atol=0.5):
        raise ValueError(
            f"sample_steps: got {steps}, whose times miss some of the student's "
            f"{[round(t, 1) for t in schedule.timesteps]}; wanted a multiple that meets them "
            "(50 for the original's 1000, 740, 500, 260)"
        )
    return found.tolist()
