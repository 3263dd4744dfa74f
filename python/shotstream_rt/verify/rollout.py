"""Cases D and E: whole films with recorded noise, shipped options and others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..backends.passes import EagerFilm
from ..config import CacheConfig, ScheduleConfig, ShotConfig, StreamConfig
from ..film.context import ContextSelector
from ..kernels.reference.frame_pack import frame_pack
from ..kernels.reference.renoise import renoise, to_x0
from ..model.wan_vae.codec import WanCodec
from ..pipeline import Pipeline
from ..plan.noise import RecordedNoise
from ..plan.planner import planner_of
from ..plan.policy import policy_of
from ..plan.schedule import Schedule
from ..shot_inputs import ShotInputs
from .check import BFLOAT16_DISTANCE, BFLOAT16_SLACK, Check, compare, exact
from .golden import GoldenCase, VerifyOptions

_FLOAT32_GREY_LEVELS = 0.01
"""Mean difference of 8-bit frames in float32: a rounding flips one value in a thousand."""


def check_default(case: GoldenCase, asked: VerifyOptions) -> Iterator[Check]:
    """Compare the full loop, VAE and context sampling included."""
    dtype = asked.dtype
    config = _stream_config(case, case.meta["options"], {}, case["shot0.noise_init"])
    pipeline = _pipeline(case, config, asked)
    codec = WanCodec.from_state(case.weights("vae"), dtype=dtype)
    steps = torch.tensor(Schedule.from_config(config.schedule).timesteps)
    yield exact("denoising_steps", steps, case["denoising_steps"])
    yield from _first_calls(case, config, asked)

    shots = int(case.meta["shots"])
    noise = _noise(case, [f"shot{shot}.noise_{{}}" for shot in range(shots)], config)
    model = config.model
    selector = ContextSelector(
        codec,
        budget=config.cache.context_frames,
        latent_shape=(model.in_dim, *case.latent_size),
        shot_limit=1 + codec.temporal_stride * (config.shot.shot_frames - 1),
    )
    film = torch.empty(0)
    for shot in range(shots):
        name = f"shot{shot}"
        selector.end_shot()
        selection = selector.select()
        selector.begin_shot(shot, "")
        flags = [*selection.flags, *[selection.target_flag] * config.shot.shot_frames]
        yield exact(f"{name}.flags", torch.tensor(flags), case[f"{name}.flags"][: len(flags)])
        if selection.frames:
            frames_per_shot = film.shape[0] // shot
            index = [s * frames_per_shot + f for s, f in selection.frames]
            golden_index = case[f"{name}.context_frame_index"]
            yield exact(f"{name}.context_frame_index", torch.tensor(index), golden_index)
            if f"{name}.context_frames" in case.tensors:
                golden = case[f"{name}.context_frames"]
                yield compare(f"{name}.context_frames", film[index], golden, dtype, "context")
        golden = case[f"{name}.context_latents"]
        got = selection.latents
        yield compare(f"{name}.context_latents", got, golden, dtype, "context")

        latents = _shoot(case, pipeline, noise, shot, list(selection.flags), got,
                         selection.target_flag, config)  # fmt: skip
        yield compare(f"{name}.latents", latents, case[f"{name}.latents"], dtype, "rollout")
        decoder = codec.decoder()
        chunk = config.shot.chunk_frames
        pixels = torch.cat([decoder.decode(part)[0] for part in torch.split(latents, chunk, dim=1)])
        selector.add_frames(pixels)
        film = torch.cat([film, pixels]) if len(film) else pixels
        packed = frame_pack(pixels).permute(0, 3, 1, 2)
        yield _grey_levels(f"{name}.frames_u8", packed, case[f"{name}.frames_u8"], dtype)
        for match in case.named(rf"{name}\.frames_f32_at_([\d_]+)"):
            got = pixels[[int(number) for number in match[1].split("_")]]
            yield _grey_levels(match.string, got, case[match.string], dtype)


def check_options(case: GoldenCase, asked: VerifyOptions) -> Iterator[Check]:
    """Compare rollouts under other options, on golden context latents."""
    dtype = asked.dtype
    for name, variant in case.meta["variants"].items():
        options = variant["options"]
        own = f"{name}.noise.init" in case.tensors
        initial = case[f"{name}.noise.init" if own else "noise.shot0.init"]
        config = _stream_config(case, options, variant, initial)
        pipeline = _pipeline(case, config, asked)
        shots = int(variant["shots"])
        names = [f"{name}.noise.{{}}"] if own else [f"noise.shot{i}.{{}}" for i in range(shots)]
        noise = _noise(case, names, config)
        for shot in range(shots):
            context = torch.zeros(1, config.cache.context_frames, 16, *case.latent_size)
            context = case.tensors.get(f"{name}.shot{shot}.context_latents", context)
            flags, target = [0] * config.cache.context_frames, 0
            if variant["flags"][shot] is not None:
                flags, target = variant["flags"][shot][0], variant["flags"][shot][1][0]
            latents = _shoot(case, pipeline, noise, shot, flags, context, target, config)
            full = f"{name}.shot{shot}.latents"
            yield compare(full, latents, case[full], dtype, "rollout")
        if f"{name}.last_local_k0" in case.tensors and isinstance(pipeline.film, EagerFilm):
            order = _in_time_order(config)
            arena = pipeline.film.cache.arenas[0]
            for part, rows in (("k", arena.k), ("v", arena.v)):
                full = f"{name}.last_local_{part}0"
                yield compare(full, rows[order][None], case[full], dtype, "network")


def _stream_config(
    case: GoldenCase, options: Mapping[str, Any], variant: Mapping[str, Any], noise: Tensor
) -> StreamConfig:
    """Translate the original's options; the recorded noise gives the length of a shot.

    A window needs both of the original's switches; with only one it crashes or does nothing.
    """
    inner = options.get("model_kwargs") or {}
    window = inner.get("local_attn_size", -1)
    unrotated = variant.get("use_wo_rope_cache", options.get("use_wo_rope_cache", False))
    chunk = int(options["num_frame_per_block"])
    return StreamConfig(
        model=case.model,
        cache=CacheConfig(
            context_frames=options["max_context_frames"],
            sink_frames=inner.get("sink_size", 0),
            window_frames=window if window > 0 and options.get("local_attn_size") else None,
            key_rotation="on_read" if unrotated else "on_write",
        ),
        shot=ShotConfig(
            chunk_frames=chunk,
            shot_frames=noise.shape[1],
            multi_caption=options["multi_caption"],
            shot_phase=options["change_rope"],
        ),
        schedule=ScheduleConfig(
            denoising_steps=tuple(options["denoising_step_list"]),
            shift=options["timestep_shift"],
            warp=options["warp_denoising_step"],
            context_noise=options["context_noise"],
        ),
    )


def _noise(case: GoldenCase, names: list[str], config: StreamConfig) -> RecordedNoise:
    return RecordedNoise(
        [case[name.format("init")] for name in names],
        [case[name.format("steps")] for name in names],
        config.schedule.num_steps,
    )


def _caption_rows(shot: int, flags: list[int], config: StreamConfig) -> list[int]:
    """Captions of the shots in the context, then the shot's own."""
    if shot == 0 or not config.shot.multi_caption:
        return [shot]
    return [*sorted(set(flags)), shot]


def _shoot(
    case: GoldenCase,
    pipeline: Pipeline,
    noise: RecordedNoise,
    shot: int,
    flags: list[int],
    context: Tensor,
    target_flag: int,
    config: StreamConfig,
) -> Tensor:
    """Latents of one shot; every chunk is committed, as in the original."""
    captions = case.captions(_caption_rows(shot, flags, config))
    pipeline.begin_shot(ShotInputs(shot, context, flags, captions, target_flag))
    chunks = []
    for chunk in range(config.shot.chunks):
        chunks.append(pipeline.run_chunk(chunk, noise).to("cpu", copy=True))
        pipeline.commit()
    return torch.cat(chunks, 1)


def _pipeline(case: GoldenCase, config: StreamConfig, asked: VerifyOptions) -> Pipeline:
    """A film on the backend asked for, its caches poisoned so that stale reads show."""
    film = case.backend(config, asked).new_film()
    film.poison()
    return Pipeline(config, film)


def _first_calls(case: GoldenCase, config: StreamConfig, asked: VerifyOptions) -> Iterator[Check]:
    """Compare the first model calls of shot 0 one by one."""
    dtype, times = asked.dtype, case["shot0.call_t"].tolist()
    film, policy = case.eager_film(config, asked), policy_of(config)
    schedule = Schedule.from_config(config.schedule)
    film.begin_shot(case.captions([0]))
    frames = config.shot.chunk_frames
    context = torch.zeros_like(case["shot0.context_latents"]).to(dtype)
    flags = case["shot0.flags"].tolist()
    plan = policy.context(flags[: config.cache.context_frames])
    rows = [0] * config.cache.context_frames
    flow = film.context_flow(plan, rows, context.to(asked.device))
    yield compare("shot0.call0.flow", flow, case["shot0.call0.flow"], dtype, "network")

    noise = _noise(case, ["shot0.noise_{}"], config)
    per_chunk = config.schedule.num_steps + 1
    shape = (1, frames, *context.shape[2:])
    x = x0 = torch.empty(0)
    for call in range(1, len(times)):
        chunk, step = divmod(call - 1, per_chunk)
        time = times[call]
        if step == config.schedule.num_steps:
            x = x0
        elif step == 0:
            x = noise.draw(0, chunk, 0, shape).to(dtype)
        else:
            fresh = noise.draw(0, chunk, step, shape).to(dtype)
            x = renoise(x0, fresh, schedule.sigmas[step])
        film.begin_chunk(policy.chunk(0, chunk, flags[-1]), 0, x[None])
        flow = film.chunk_flow(time, x.to(asked.device)).cpu()
        clean = to_x0(x, flow, schedule.sigma_at(torch.tensor(time)))
        name = f"shot0.call{call}"
        yield compare(f"{name}.flow", flow, case[f"{name}.flow"], dtype, "network")
        yield compare(f"{name}.x0", clean, case[f"{name}.x0"], dtype, "rollout")
        if step < config.schedule.num_steps:
            x0 = clean


def _in_time_order(config: StreamConfig) -> Tensor:
    """Arena rows of the local cache after the last chunk, oldest frame first."""
    plan = planner_of(config).chunk(0, config.shot.chunks - 1, 0)
    context, tokens = config.cache.context_frames, config.model.tokens_per_frame
    slots = sorted(range(len(plan.slot_frames)), key=lambda slot: plan.slot_frames[slot])
    return torch.cat(
        [torch.arange((context + s) * tokens, (context + s + 1) * tokens) for s in slots]
    )


def _grey_levels(name: str, got: Tensor, golden: Tensor, dtype: torch.dtype) -> Check:
    """Mean difference of frames in grey levels, from 8-bit values or from floats in [-1, 1]."""
    if got.shape != golden.shape:
        return Check(name, float("inf"), 0.0)
    scale = 127.5 if golden.is_floating_point() else 1.0
    limit = _FLOAT32_GREY_LEVELS
    if dtype != torch.float32:
        limit = BFLOAT16_SLACK * BFLOAT16_DISTANCE["grey_levels"]
    return Check(name, float((got.float() - golden.float()).abs().mean()) * scale, limit)
