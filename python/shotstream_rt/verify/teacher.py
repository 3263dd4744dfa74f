"""Case G: the bidirectional teacher, one time for all frames, and its guided sampler."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..config import ScheduleConfig
from ..kernels.reference.renoise import to_x0
from ..model.student import Student
from ..plan.schedule import Schedule, euler_grid
from .check import Check, compare
from .golden import GoldenCase, VerifyOptions

_SHIFT = 8.0
"""Shift of the teacher's sampler, a literal in the original."""


def check(case: GoldenCase, asked: VerifyOptions) -> Iterator[Check]:
    """Compare flows under every conditioning, and a short guided sampling run."""
    dtype = asked.dtype
    teacher = case.student(dtype)
    condition, x = case["condition_latents"], case["x"]
    both, time = torch.cat([condition, x], 1), float(case.meta["timestep"])
    flags = case["flags"].long()
    captions = case["prompt_embeds"]
    with torch.inference_mode():
        flows = {
            "multi": _flow(teacher, both, time, captions, flags, flags),
            "single": _flow(teacher, both, time, captions[-1:], None, flags),
            "null": _flow(teacher, both, time, case["null_embeds"], None, flags),
            "noflags": _flow(teacher, both, time, captions[-1:], None, None),
        }
        for name, flow in flows.items():
            yield compare(f"{name}.flow", flow, case[f"{name}.flow"], dtype, "network")
        schedule = Schedule.from_config(ScheduleConfig(shift=_SHIFT))
        x0 = to_x0(both.to(dtype), flows["multi"], schedule.sigma_at(torch.tensor(time)))
        yield compare("multi.x0", x0, case["multi.x0"], dtype, "network")
        if dtype == torch.float32:
            # Guidance multiplies the error of a call by about its weight; the original's own
            # bfloat16 distance after that is not known, so there is nothing to compare with.
            yield from _sample(case, teacher, dtype)


def _flow(
    teacher: Student,
    x: Tensor,
    time: float,
    captions: Tensor,
    rows: Tensor | None,
    flags: Tensor | None,
) -> Tensor:
    frames = x.shape[1]
    if rows is None:
        rows = torch.zeros(frames, dtype=torch.long)
    times = torch.full((1, frames), time)
    return teacher.forward_train(x, times, captions[None], rows[None], range(frames), flags)


def _sample(case: GoldenCase, teacher: Student, dtype: torch.dtype) -> Iterator[Check]:
    """Euler steps with classifier-free guidance, the condition in front at every step."""
    for match in case.named(r"(sample\d+)\.timesteps"):
        yield from _sampled(case, teacher, dtype, match[1])


def _sampled(
    case: GoldenCase, teacher: Student, dtype: torch.dtype, prefix: str
) -> Iterator[Check]:
    golden_times = case[f"{prefix}.timesteps"]
    steps = len(golden_times)
    sigmas, times = euler_grid(steps, _SHIFT)
    yield compare(f"{prefix}.timesteps", times, golden_times, torch.float32, "")
    following = [*sigmas.tolist()[1:], 0.0]
    condition, x = case["condition_latents"].to(dtype), case["x"].to(dtype)
    flags, guidance = case["flags"].long(), float(case.meta["guidance"])
    for step in range(steps):
        both, time = torch.cat([condition, x], 1), float(times[step])
        conditional = _flow(teacher, both, time, case["prompt_embeds"], flags, flags)
        plain = _flow(teacher, both, time, case["null_embeds"], None, flags)
        flow = (plain + guidance * (conditional - plain))[:, condition.shape[1] :]
        x = (x.float() + (following[step] - float(sigmas[step])) * flow.float()).to(dtype)
        name = f"{prefix}.step{step}"
        yield compare(name, x, case[name], dtype, "rollout")
