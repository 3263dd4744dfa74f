"""Cases H to L: whole films of the other students of the family, with recorded noise.

Each variant is played through ``Pipeline``, as a session plays it; compared are the latents, the
model calls that were recorded, the first layer's cache at the end, and what every pass read.
Variants marked ``quirk`` are left out: there the original does what nobody can have meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..backends.base import FilmState
from ..backends.eager import EagerBackend
from ..backends.pass_inputs import PassInputs
from ..backends.passes import EagerFilm
from ..config import CacheConfig, RolloutConfig, ScheduleConfig, ShotConfig, StreamConfig
from ..errors import ConfigError
from ..kernels.reference.renoise import to_x0
from ..kernels.reference.rope_shot import rope_angles, rotate, rotation
from ..pipeline import Pipeline
from ..plan.noise import HOST
from ..plan.policy import PassPlan
from ..plan.schedule import COMMIT, Schedule
from ..shot_inputs import ShotInputs
from .check import BFLOAT16_DISTANCE, BFLOAT16_SLACK, FLOAT32_LIMIT, Check, relative_error
from .golden import GoldenCase, VerifyOptions
from .golden_plan import differing_passes, same_passes

_READ_AT_MOST = 21
"""Frames that a pass reads where a student has no window."""


def check(case: GoldenCase, asked: VerifyOptions) -> Iterator[Check]:
    """Compare every variant of a case."""
    for name, variant in case.meta["variants"].items():
        if "quirk" not in variant:
            yield from _check_variant(case, name, variant, asked)


def _check_variant(
    case: GoldenCase, name: str, variant: Mapping[str, Any], asked: VerifyOptions
) -> Iterator[Check]:
    config = _stream_config(case, variant)
    given = case.tensors.get(f"{name}.initial_latent")
    lora = variant.get("lora")
    backend = case.backend(config, asked, lora)
    runners: list[_Recorder] = []

    def recorder(*given: Any) -> _Recorder:
        runners.append(_Recorder(*given))
        return runners[0]

    film: FilmState = (
        backend.new_film(recorder) if isinstance(backend, EagerBackend) else backend.new_film()
    )
    film.poison()
    watched = _WatchedFilm(film, config)
    latents = _play(case, name, variant, Pipeline(config, watched), given)

    measured = variant["measured"]["bf16_vs_fp32"]
    limit = _limit(asked, measured["latents_rel_l2"])
    yield Check(f"{name}.latents", relative_error(latents, case[f"{name}.latents"]), limit)
    yield Check(f"{name}.plan", differing_passes(watched.passes, variant["plan"]), 0.0)
    if not runners:
        return
    (runner,) = runners
    passes = same_passes(variant["plan"], config.schedule)
    for call in variant["recorded_calls"]:
        number = passes.get(call["call"])
        if number is None or number >= len(runner.made):
            continue  # nobody reads what it computes, or passes are missing, which the plan told
        for part, got in zip(("flow", "x0"), runner.made[number], strict=True):
            full = f"{name}.call{call['call']}.{part}"
            distance = measured["calls"][str(call["call"])][part]
            golden = case[full][:, -got.shape[1] :]
            yield Check(full, relative_error(got, golden), _limit(asked, distance))
    if f"{name}.last_local_k0" in case.tensors and runner.kernels.arena.keys_in_8_bits is False:
        keys, values = _last_local(case, config, runner, watched, f"{name}.last_local_k0")
        for part, rows in (("k", keys), ("v", values)):
            full = f"{name}.last_local_{part}0"
            limit = _limit(asked, BFLOAT16_DISTANCE["network"])
            yield Check(full, relative_error(rows[None], case[full]), limit)


def _limit(asked: VerifyOptions, distance: float) -> float:
    """Limit of a comparison; ``distance`` is the original's own in bfloat16."""
    return FLOAT32_LIMIT if asked.dtype == torch.float32 else BFLOAT16_SLACK * distance


def _stream_config(case: GoldenCase, variant: Mapping[str, Any]) -> StreamConfig:
    """Translate a student's own options."""
    options, student = variant["options"], case.meta["student"]
    inner = options["model_kwargs"]
    chunk, steps = int(options["num_frame_per_block"]), options["denoising_step_list"]
    window = inner.get("local_attn_size", -1)
    rolling = student == "rolling_forcing"
    by_slot = student == "infinity_rope" or inner.get("use_infinite_attention", False)
    rollouts: dict[str, dict[str, Any]] = {
        "self_forcing": {},
        "causal_forcing": {},
        "longlive1": {"prompt": "recache", "renew_sink": not options.get("global_sink", True)},
        "infinity_rope": {"cut": "keep"},
        "rolling_forcing": {"policy": "rolling", "prompt": "refused"},
    }
    frames = variant["latent_frames"]
    return StreamConfig(
        model=case.model,
        cache=CacheConfig(
            context_frames=0,
            sink_frames=chunk if rolling else inner.get("sink_size", 0),
            window_frames=window if window > 0 else _READ_AT_MOST,
            key_rotation="on_read" if by_slot or rolling else "on_write",
            numbering="slot" if by_slot or rolling else "original",
        ),
        shot=ShotConfig(
            chunk_frames=chunk,
            shot_frames=max(chunk, frames - frames % chunk),
            multi_caption=False,
            shot_phase=False,
        ),
        schedule=ScheduleConfig(
            denoising_steps=tuple(steps),
            first_steps=tuple(options.get("denoising_step_list_first_chunk", ())),
            shift=inner["timestep_shift"],
            warp=options["warp_denoising_step"],
            context_noise=options["context_noise"],
        ),
        rollout=RolloutConfig(
            first_frames=1 if options["independent_first_frame"] and chunk > 1 else None,
            **rollouts[student],
        ),
    )


class _RecordedNoise:
    """A film's noise, played back; the shots of a film follow each other.

    Args:
        case: the file.
        name: of the tensors, such as ``default.noise`` or ``noise``.
        lengths: latent frames of every chunk.
        steps: usual denoising steps per chunk.
    """

    def __init__(self, case: GoldenCase, name: str, lengths: Sequence[int], steps: int) -> None:
        self.first_chunk: dict[int, int] = {0: 0}
        self._initial = torch.split(case[f"{name}.init"][:, : sum(lengths)], list(lengths), 1)
        self._own_first = case.tensors.get(f"{name}.first_steps")
        self._steps = case.tensors.get(f"{name}.steps")
        self._draws = steps - 1

    def draw(
        self, shot: int, chunk: int, step: int, shape: Sequence[int], device: torch.device = HOST
    ) -> Tensor:
        """See ``NoiseSource``."""
        number = self.first_chunk[shot] + chunk
        if step == 0:
            played = self._initial[number]
        elif number == 0 and self._own_first is not None:
            played = self._own_first[step - 1][None]
        else:
            before = number - (self._own_first is not None)
            assert self._steps is not None, "a draw that was not recorded"
            played = self._steps[before * self._draws + step - 1][None]
        if tuple(played.shape) != tuple(shape):
            raise ConfigError(f"noise: got {tuple(played.shape)}, wanted {tuple(shape)}")
        return played.float().to(device)


def _play(
    case: GoldenCase, name: str, variant: Mapping[str, Any], pipeline: Pipeline,
    given: Tensor | None,
) -> Tensor:  # fmt: skip
    """Latents of a variant, the given start in front; every chunk is committed."""
    config = pipeline.config
    length, first = config.shot.chunk_frames, config.rollout.first_frames
    start = 0 if given is None else given.shape[1]
    lengths = [first] if first is not None and given is None else []
    lengths += [length] * ((variant["latent_frames"] - start - sum(lengths)) // length)
    own = f"{name}.noise.init" in case.tensors
    source = name if own else variant.get("noise", "shared")
    noise = _RecordedNoise(
        case, "noise" if source == "shared" else f"{source}.noise", lengths,
        config.schedule.num_steps,
    )  # fmt: skip
    rows = variant.get("prompts", [0])
    context, number, shot, base = torch.zeros(1, 0, *pipeline.latent_shape[2:]), 0, 0, 0
    chunks = len(lengths)
    given = None if given is None else given.float()
    captions = case.captions(rows[:1])
    pipeline.begin_shot(ShotInputs(0, context, [], captions, 0, given=given, chunks=chunks))
    # Given chunks count as the shot's first, and its noise begins behind them.
    made = [] if given is None else [given]
    ahead = len(pipeline.policy.given(start, 0)) if start else 0
    for chunk, starts in _starts(lengths, start):
        if _switches(variant, number, chunk, starts):
            number += 1
            captions = case.captions(rows[number : number + 1])
            if chunk in variant.get("cut_boundaries", ()):
                # Its chunks count from nought again; a given start was the first shot's.
                shot, base, ahead = shot + 1, chunk, 0
                noise.first_chunk[shot] = chunk
                pipeline.begin_shot(ShotInputs(shot, context, [], captions, 0))
            else:
                pipeline.change_captions(captions)
        made.append(pipeline.run_chunk(ahead + chunk - base, noise).float().to("cpu", copy=True))
        pipeline.commit()
    return torch.cat(made, 1)


def _starts(lengths: Sequence[int], start: int) -> Iterator[tuple[int, int]]:
    """Each chunk with its first frame."""
    for chunk, length in enumerate(lengths):
        yield chunk, start
        start += length


def _switches(variant: Mapping[str, Any], done: int, chunk: int, start: int) -> bool:
    """Whether the next prompt takes over at a chunk.

    Args:
        variant: says where, in frames or in chunks.
        done: switches so far.
        chunk: its number.
        start: its first frame.
    """
    frames, chunks = variant.get("switch_frame_indices", []), variant.get("scene_boundaries", [])
    if done < len(frames):
        return bool(start >= frames[done])
    return chunk in chunks


class _Recorder(EagerFilm):
    """Keeps what every pass predicted, clean ones included.

    Attributes:
        made: flow and clean estimate of each pass, in order.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.made: list[tuple[Tensor, Tensor]] = []

    def run(self, latents: Tensor, inputs: PassInputs) -> Tensor | None:
        """See ``PassRunner``."""
        flow = super().run(latents, replace(inputs, keep_flow=True))
        assert flow is not None
        schedule = self.shared.schedule
        told = [schedule.levels[level].time for level in inputs.levels]
        sigma = schedule.sigma_at(torch.tensor(told)).view(1, -1, 1, 1, 1)
        predicted = flow.float().cpu()
        self.made.append((predicted.clone(), to_x0(latents.float().cpu(), predicted, sigma)))
        return flow if inputs.keep_flow else None


class _WatchedFilm:
    """A film that notes what every pass reads.

    Attributes:
        passes: in the terms of the golden plans.
        clean: frame held by each slot whose keys are clean.
    """

    def __init__(self, film: FilmState, config: StreamConfig) -> None:
        self._film, self._schedule = film, Schedule.from_config(config.schedule)
        self._rolling = config.rollout.policy == "rolling"
        self._held: dict[int, tuple[int, int]] = {}
        self._plans: list[PassPlan] = []
        self.passes: list[dict[str, Any]] = []
        self.clean: dict[int, int] = {}
        self.device, self.dtype, self.abandoned = film.device, film.dtype, film.abandoned
        self.begin_shot, self.change_captions = film.begin_shot, film.change_captions
        self.prepare_captions = film.prepare_captions
        self.denoise, self.keep = film.denoise, film.keep
        self.poison, self.close = film.poison, film.close

    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        """See ``FilmState``."""
        known = any(entry["kind"] == "chunk" for entry in self.passes)
        self._note("recache" if known else "initial", plan, plan.levels[0])
        self.clean.update(zip(plan.writes, self._frames(plan), strict=True))
        self._film.encode_context(plan, captions, latents)

    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        """See ``FilmState``."""
        self._note("window" if self._rolling else "chunk", plan, plan.levels[0])
        self._film.begin_chunk(plan, caption, noise)

    def commit(self) -> None:
        """See ``FilmState``."""
        plan = self._plans[-1]
        clean = plan.clean or plan
        if plan.clean is not None:
            self._note("clean", clean, (COMMIT,))
        self.clean.update(zip(clean.writes, self._frames(clean), strict=True))
        self._film.commit()

    def _frames(self, plan: PassPlan) -> range:
        first = plan.end - plan.chunks.count(plan.chunks[0])
        return range(first, first + plan.frames)

    def _note(self, kind: str, plan: PassPlan, levels: Sequence[int]) -> None:
        frames = self._frames(plan)
        self._plans.append(plan)
        positions = [place.frame for place in plan.positions]
        for slot, *held in zip(plan.writes, frames, positions, strict=True):
            self._held[slot] = (held[0], held[1])
        keys = []
        for slot in (slot for begin, end in plan.reads[0] for slot in range(begin, end)):
            frame, position = self._held[slot]
            placed = plan.read_positions[slot] if plan.read_positions else None
            keys.append((frame, position if placed is None else placed.frame))
        self.passes.append(
            {
                "kind": kind,
                "frames": list(frames),
                "query_positions": positions,
                "key_frames": [frame for frame, _ in sorted(keys)],
                "key_positions": [position for _, position in sorted(keys)],
                "times": [self._schedule.levels[level].time for level in levels],
            }
        )


def _last_local(
    case: GoldenCase, config: StreamConfig, runner: EagerFilm, film: _WatchedFilm, name: str
) -> tuple[Tensor, Tensor]:
    """Keys and values of layer 0 at the end, oldest first, in the form that the original keeps."""
    tokens, model = config.model.tokens_per_frame, config.model
    arena, count = runner.cache.arenas[0], case[name].shape[1] // tokens
    slots = sorted(film.clean, key=lambda slot: film.clean[slot])
    sink = config.cache.sink_frames
    slots = [*slots[:sink], *slots[len(slots) - count + sink :]]
    student, first = case.meta["student"], config.shot.chunk_frames
    keys, values = [], []
    for slot in slots:
        rows, frame = slice(slot * tokens, (slot + 1) * tokens), film.clean[slot]
        key = arena.k[rows].float().cpu()
        # Infinity-RoPE keeps frame 0 rotated, Rolling Forcing all but the anchor.
        if (student, frame) == ("infinity_rope", 0) or (
            student == "rolling_forcing" and frame >= first
        ):
            key = rotate(key, rotation(rope_angles([frame], [0.0], model.grid, model.head_dim)))
        keys.append(key)
        values.append(arena.v[rows].float().cpu())
    return torch.cat(keys), torch.cat(values)
