"""Chooses which heads profile ``fast`` prunes, and measures what that costs; nothing is trained.

Films are made exactly, and every head's attention to history older than one chunk is noted. Heads
with the least are pruned first. Candidates (how many heads, how many recent frames) are tried from
the cheapest on, each against the exact films with the same context, captions and noise, and the
first that passes the gate is taken. Several films, because one film's few steps may amplify any
rounding. The same model, story and seeds give the same policy.

Called by ``python -m shotstream_rt calibrate``, which also measures other profiles in this way.

Source of the idea, heads that do not need history: Dummy Forcing and Forcing-KV.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shotstream_rt import _native
from shotstream_rt.backends.cache import check_layout
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.kernel_registry import Target, resolve
from shotstream_rt.backends.passes import EagerFilm
from shotstream_rt.errors import ConfigError
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.loading.history_file import (
    MAX_LATENTS_REL_L2,
    MIN_FRAMES_PSNR_DB,
    CalibratedHistory,
    fingerprint,
    passes_gate,
)
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.plan.planner import planner_of
from shotstream_rt.profiles import FAST, PROFILES, Profile
from shotstream_rt.shot_inputs import ShotInputs

from .fidelity import Fidelity, compare_fidelity
from .shot_inputs import frames_of, run_shot

if TYPE_CHECKING:
    from shotstream_rt.config import StreamConfig
    from shotstream_rt.kernels.sets.kernel_set import KernelSet
    from shotstream_rt.loading.load_model import Model
    from shotstream_rt.model.codec import LatentCodec
    from shotstream_rt.story import Story

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Shares of heads that are tried."""

RECENT_CHUNKS = (1, 2)
"""Chunks of history that pruned heads keep, which are tried."""

_QUERIES = 128
"""Rows of a chunk whose attention is measured, evenly spread."""

_log = logging.getLogger("shotstream_rt.bench")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactShot:
    """One shot as profile ``exact`` makes it.

    Attributes:
        inputs: what it began with.
        latents: of its chunks.
        frames: ``[P, 3, H, W]`` in [-1, 1], on the host.
    """

    inputs: ShotInputs
    latents: list[Tensor]
    frames: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactFilm:
    """All shots of a story, made with one seed."""

    noise: PhiloxNoise
    shots: list[ExactShot]


class HistoryMass:
    """An attention that measures how much of each head's attention goes to old history.

    Args:
        kernels: attends.
        config: shape of the model.
    """

    def __init__(self, kernels: KernelSet, config: StreamConfig) -> None:
        self._attend, self._frame_tokens = kernels.attention, config.model.tokens_per_frame
        self._sums = torch.zeros(
            config.model.num_layers, config.model.num_heads, dtype=torch.float64
        )
        self._counts = torch.zeros(config.model.num_layers, 1, dtype=torch.float64)
        self._layers: dict[int, int] = {}
        self._hidden: Tensor | None = None

    def tell_layers(self, film: EagerFilm) -> None:
        """Note which memory belongs to which layer, to tell the layers apart."""
        self._layers = {a.v.data_ptr(): n for n, a in enumerate(film.cache.arenas)}

    def look_at(self, hidden_slots: Sequence[int]) -> None:
        """Measure attention to these arena slots from now on; none stops measuring."""
        slots = torch.tensor(list(hidden_slots), dtype=torch.int64)
        tokens = slots[:, None] * self._frame_tokens + torch.arange(self._frame_tokens)
        self._hidden = tokens.flatten() if hidden_slots else None

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None
    ) -> Tensor:
        """Attend, and note.

        Args:
            q: ``[1, Tq, N, D]``.
            k: ``[1, Tk, N, D]``, the arena's prefix.
            v: like ``k``; tells the layer by where it lies.
            scale: factor on the logits.
            bias: float32 ``[Tk]``, added to the logits, or ``None``.
        """
        if self._hidden is not None:
            layer = self._layers[v.data_ptr()]
            step = -(-q.shape[1] // _QUERIES)
            logits = torch.einsum("tnd,knd->ntk", q[0, ::step].float(), k[0].float()) * scale
            mass = logits.softmax(-1)[..., self._hidden.to(k.device)].sum(-1).mean(-1)
            self._sums[layer] += mass.double().cpu()
            self._counts[layer] += 1
        return self._attend(q, k, v, scale, bias)

    def mean(self) -> Tensor:
        """Return the mean share of attention, ``[layers, heads]``."""
        return self._sums / self._counts.clamp(min=1)


def calibrate_history(
    bundle: Model, story: Story, *, seed: int, films: int = 3
) -> CalibratedHistory:
    """Find the cheapest policy that passes the gate.

    Args:
        bundle: the model, opened with profile ``exact``.
        story: what to make; needs two shots to have a context in one.
        seed: of the first film's noise; the others have the next ones.
        films: how many are made of the story; the gate is on all of them together.

    Raises:
        ConfigError: no films, no candidate passes the gate, or the model keeps no more than it
            would prune.
    """
    config = bundle.config
    made, masses = _exact_films(bundle, story, seed, films)
    _log.info("attention to old history by head: %s", masses.tolist())

    fast, tried = _bound(bundle, _kernels(bundle, FAST.kernel_parts)), []
    for policy in _candidates(masses, config):
        pruned = replace(config, history=policy)
        pipeline = Pipeline(pruned, EagerBackend(fast, pruned).new_film())
        found = _measure(pipeline, bundle.codec, made)
        pipeline.close()
        assert found.frames_psnr_db is not None
        share = policy.share(config.model.num_heads)
        tried.append(_describe(policy, share, found))
        _log.info("candidate %s", tried[-1])
        if passes_gate(found.frames_psnr_db, found.latents_rel_l2):
            return CalibratedHistory(
                student=fingerprint(bundle.weights()),
                policy=policy,
                share=share,
                frames_psnr_db=found.frames_psnr_db,
                latents_rel_l2=round(found.latents_rel_l2, 4),
                measured={
                    "profile": FAST.name,
                    "story": story.name,
                    "shots": len(story.captions),
                    "films": films,
                    "seed": seed,
                    "reference": found.reference,
                    "frames_mean_grey": found.frames_mean_grey,
                    "tried": tried,
                    "mass": [[round(value, 4) for value in row] for row in masses.tolist()],
                },
            )
    raise ConfigError(
        f"calibrate: none of {len(tried)} candidates passes the gate (frames >= "
        f"{MIN_FRAMES_PSNR_DB} dB, latents <= {MAX_LATENTS_REL_L2}): {tried}; use profile fp8"
    )


def measure_profile(
    bundle: Model, profile: Profile, story: Story, *, seed: int, films: int = 3
) -> Fidelity:
    """Measure what a profile of the student's arithmetic costs, as the gate does.

    Args:
        bundle: the model, opened with profile ``exact``.
        profile: takes parts of the kernel set and nothing else.
        story: what to make.
        seed: of the first film's noise; the others have the next ones.
        films: how many are made of the story; the distance is that of all of them together.

    Raises:
        ConfigError: no films, a profile that changes something else, or that does not fit the
            model.
    """
    if profile.decoder != "codec" or profile.prunes_history or not profile.kernel_parts:
        fitting = [p.name for p in PROFILES.values() if p.kernel_parts and p.decoder == "codec"]
        raise ConfigError(f"profile: got {profile.name!r}, wanted one of {', '.join(fitting)}")
    kernels = _kernels(bundle, profile.kernel_parts)
    check_layout(kernels.arena, bundle.config)
    made, _ = _exact_films(bundle, story, seed, films)
    backend = EagerBackend(_bound(bundle, kernels), bundle.config)
    return _measure(Pipeline(bundle.config, backend.new_film()), bundle.codec, made)


def _exact_films(
    bundle: Model, story: Story, seed: int, films: int
) -> tuple[list[ExactFilm], Tensor]:
    """Make films, and note each head's attention to old history: ``[layers, heads]``."""
    if films < 1:
        raise ConfigError(f"films: got {films}, wanted at least 1")
    config, exact = bundle.config, _kernels(bundle)
    mass = HistoryMass(exact, config)
    film = EagerBackend(_bound(bundle, replace(exact, attention=mass)), config).new_film()
    mass.tell_layers(film)
    pipeline = Pipeline(config, film)
    made = []
    for number in range(films):
        noise = PhiloxNoise(seed + number)
        shots = _make_film(pipeline, mass, bundle, story, noise)
        made.append(ExactFilm(noise=noise, shots=shots))
        _log.info("film %d of %d", number + 1, films)
    return made, mass.mean()


def _kernels(bundle: Model, lossy_parts: Sequence[str] = ()) -> KernelSet:
    dtype, head_dim = bundle.backend.dtype, bundle.config.model.head_dim
    target = Target(device=bundle.device, dtype=dtype, head_dim=head_dim)
    return resolve("auto", target, lossy_parts)


def _bound(bundle: Model, kernels: KernelSet) -> BoundStudent:
    """Read the student again, for another kernel set."""
    return BoundStudent.from_state(
        bundle.weights(), bundle.config.model, kernels, source=bundle.name, device=bundle.device,
        dtype=bundle.backend.dtype,
    )  # fmt: skip


def _make_film(
    pipeline: Pipeline, mass: HistoryMass, bundle: Model, story: Story, noise: PhiloxNoise
) -> list[ExactShot]:
    """Make every shot of a story exactly, each with the context a session would choose."""
    shots: list[ExactShot] = []
    embeddings, lengths = bundle.text.encode(list(story.captions))
    for number in range(len(story.captions)):
        inputs = _inputs(bundle, shots, embeddings, lengths)
        mass.look_at([])
        pipeline.begin_shot(inputs)
        latents = []
        for chunk in range(pipeline.config.shot.chunks):
            mass.look_at(_hidden_slots(pipeline, number, chunk))
            latents.append(pipeline.run_chunk(chunk, noise).clone())
            pipeline.commit()
        shots.append(ExactShot(inputs=inputs, latents=latents, frames=_decode(bundle, latents)))
        _log.info("shot %d of %d", number + 1, len(story.captions))
    return shots


def _inputs(
    bundle: Model, past: Sequence[ExactShot], embeddings: Tensor, lengths: Sequence[int]
) -> ShotInputs:
    """What the next shot of a film begins with."""
    config, number = bundle.config, len(past)
    budget = config.cache.context_frames
    picked = []
    if past and budget:
        counts = [frames_of(config.shot.shot_frames)] * number
        picked = _native.sample_context(counts, budget)
    if picked:
        frames = torch.stack([past[shot].frames[frame] for shot, frame in picked])
        context = bundle.codec.encode_frames(frames.to(bundle.device))[None]
    else:
        model = config.model
        context = torch.zeros(
            1, budget, model.in_dim, model.latent_height, model.latent_width, device=bundle.device
        )
    flags = [shot for shot, _ in picked] or [0] * budget
    rows = [*(sorted(set(flags)) if picked and config.shot.multi_caption else []), number]
    return ShotInputs(
        shot=number,
        context=context,
        flags=flags,
        captions=CaptionSet(
            embeddings=embeddings[rows], lengths=tuple(int(lengths[row]) for row in rows)
        ).checked(),
        target_flag=flags[-1] + 1 if flags else 1,
    )


def _hidden_slots(pipeline: Pipeline, shot: int, chunk: int) -> list[int]:
    """Arena slots that a head which keeps one chunk of history does not read."""
    config = pipeline.config
    plan = planner_of(config).chunk(shot, chunk, 0)
    policy = HistoryPolicy(recent_frames=config.shot.chunk_frames, pruned_heads=())
    seen = policy.visible_slots(
        plan.slot_frames, plan.first_frame, config.cache.context_frames, config.cache.sink_frames
    )
    return sorted(set(range(plan.valid_frames)) - set(seen))


def _candidates(masses: Tensor, config: StreamConfig) -> list[HistoryPolicy]:
    """Return policies to try, those that read the fewest keys first."""
    layers, heads = masses.shape
    order = masses.flatten().argsort(stable=True).tolist()
    found = []
    for chunks in RECENT_CHUNKS:
        for share in SHARES:
            pruned = sorted(order[: round(share * layers * heads)])
            rows = tuple(
                tuple(index % heads for index in pruned if index // heads == layer)
                for layer in range(layers)
            )
            recent = chunks * config.shot.chunk_frames
            found.append((_frames_read(config, share, recent), chunks, rows, recent))
    return [
        HistoryPolicy(recent_frames=recent, pruned_heads=rows)
        for _, _, rows, recent in sorted(found)
    ]


def _frames_read(config: StreamConfig, share: float, recent: int) -> float:
    """Mean latent frames that a head reads over a shot."""
    chunk, cache = config.shot.chunk_frames, config.cache
    local = [min((n + 1) * chunk, config.local_frames) for n in range(config.shot.chunks)]
    few = [min(frames, recent + chunk + cache.sink_frames) for frames in local]
    mean = sum((1 - share) * a + share * b for a, b in zip(local, few, strict=True)) / len(local)
    return cache.context_frames + mean


def _measure(pipeline: Pipeline, codec: LatentCodec, films: Sequence[ExactFilm]) -> Fidelity:
    latents, frames = [], []
    for film in films:
        for shot in film.shots:
            made = run_shot(pipeline, shot.inputs, film.noise)
            latents += made
            frames.append(codec.decode_full(torch.cat(made, 1))[0].cpu())
    exact = [shot for film in films for shot in film.shots]
    return compare_fidelity(
        latents,
        [chunk for shot in exact for chunk in shot.latents],
        frames,
        [shot.frames for shot in exact],
        reference="exact, same context, captions and noise",
        shots=len(exact),
    )


def _decode(bundle: Model, latents: Sequence[Tensor]) -> Tensor:
    return bundle.codec.decode_full(torch.cat(list(latents), 1))[0].cpu()


def _describe(policy: HistoryPolicy, share: float, found: Fidelity) -> dict[str, Any]:
    return {
        "share": share,
        "recent_frames": policy.recent_frames,
        "latents_rel_l2": round(found.latents_rel_l2, 4),
        "frames_psnr_db": found.frames_psnr_db,
    }
