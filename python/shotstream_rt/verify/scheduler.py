"""Case A: tables, lookups and elementwise formulas of the schedule, rotary and time features."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..config import ScheduleConfig
from ..kernels.reference.renoise import renoise, to_flow, to_x0
from ..kernels.reference.rope_shot import rope_angles
from ..model.student import time_features
from ..plan.schedule import Schedule, euler_grid, nearest
from .check import Check, compare, exact
from .golden import GoldenCase, VerifyOptions


def check(case: GoldenCase, asked: VerifyOptions) -> Iterator[Check]:
    """Compare every tensor of the case; tables must be equal to the last bit."""
    for entry in case.meta["schedules"]:
        yield from _schedule(case, entry)
    for name in case.tensors:
        if name.startswith("rope_angles_hd"):
            golden = case[name]
            head_dim = int(name.removeprefix("rope_angles_hd"))
            yield compare(name, _axis_angles(len(golden), head_dim), golden, torch.float32, "")
    golden = case["time_embed_256"]
    got = time_features(case["time_embed_t"], golden.shape[-1]).float()
    yield compare("time_embed_256", got, golden, torch.float32, "")


def _schedule(case: GoldenCase, entry: dict[str, object]) -> Iterator[Check]:
    prefix, shift = str(entry["prefix"]), float(str(entry["shift"]))
    steps = case[prefix + "steps_raw"].tolist()
    schedule = Schedule.from_config(ScheduleConfig(denoising_steps=tuple(steps), shift=shift))
    tables = {
        "sigmas": schedule.grid_sigmas,
        "timesteps": schedule.grid_timesteps,
        "steps_warped": torch.tensor(schedule.timesteps),
        "lookup_index": schedule.lookup(case[prefix + "lookup_t"]),
        "lookup_sigma": schedule.sigma_at(case[prefix + "lookup_t"]),
    }
    for name, got in tables.items():
        yield exact(prefix + name, got, case[prefix + name])
    name = prefix + "training_weights"
    yield compare(name, schedule.loss_weights(), case[name], torch.float32, "")

    sigma = schedule.sigma_at(case[prefix + "lookup_t"]).view(-1, 1, 1, 1)
    x0, noise, flow = (case[prefix + part] for part in ("x0", "noise", "flow"))
    noised = case[prefix + "add_noise"]
    formulas = {
        "add_noise": renoise(x0, noise, sigma),
        "flow_to_x0": to_x0(noised, flow, sigma),
        "x0_to_flow": to_flow(noised, x0, sigma),
    }
    for name, got in formulas.items():
        yield compare(prefix + name, got, case[prefix + name], torch.float32, "")
    half = torch.bfloat16
    got = renoise(x0.to(half), noise.to(half), sigma)
    yield exact(prefix + "add_noise_bf16", got, case[prefix + "add_noise_bf16"])
    got = to_x0(noised.to(half), flow.to(half), sigma)
    yield exact(prefix + "flow_to_x0_bf16", got, case[prefix + "flow_to_x0_bf16"])

    sigmas, times = euler_grid(len(case[prefix + "sampler50_sigmas"]), shift)
    yield exact(prefix + "sampler50_sigmas", sigmas, case[prefix + "sampler50_sigmas"])
    golden_times = case[prefix + "sampler50_timesteps"]
    yield compare(prefix + "sampler50_timesteps", times, golden_times, torch.float32, "")
    following = torch.cat([sigmas[1:], torch.zeros(1)])
    rows = nearest(times, case[prefix + "sampler50_step_t"])
    change = (following - sigmas)[rows].view(-1, 1, 1, 1)
    got = case[prefix + "sampler50_step_in"] + change * case[prefix + "sampler50_step_flow"]
    name = prefix + "sampler50_step_out"
    yield compare(name, got, case[name], torch.float32, "")


def _axis_angles(positions: int, head_dim: int) -> torch.Tensor:
    """Angles of positions 0.. on all three axes at once, which a diagonal of the grid holds."""
    grid = (positions, positions)
    angles = rope_angles(range(positions), [0.0] * positions, grid, head_dim)
    diagonal = torch.arange(positions) * (positions * positions + positions + 1)
    return angles[diagonal]
