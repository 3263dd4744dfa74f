"""Measures a whole film: prompts into a session, frames on the host out of it.

The consumer takes every chunk at once, so the rates are those of the runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from shotstream_rt.kernels.decoder_set import decoder_kernels
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.loading import ModelBundle, load_model
from shotstream_rt.noise import PhiloxNoise
from shotstream_rt.profiles import find_profile
from shotstream_rt.session import Session
from shotstream_rt.story import Story

from .fidelity import compare_fidelity
from .film_play import drain, play, steer
from .measurement import Measurement, add_rates, baseline_samples
from .options import DTYPES, BenchOptions
from .oracle import checked_chunks, compare_latents, reference_pipeline, student_of
from .plain_film import PlainFilm
from .random_checkpoint import resolve_model
from .roofline import Roofline, measure_roofline
from .shot_inputs import ShotInputs, run_shot
from .stopwatch import Stopwatch, peak_memory_mib
from .timed import TimedCodec, TimedPipeline, TimedText
from .work import codec_stages, network_of, pack_stage, student_stages, text_stage
from .workloads import Workload

_PACKS = 20
"""Timed packings of a chunk, the first one not counted."""

_log = logging.getLogger("shotstream_rt.bench")


def measure_film(workload: Workload, options: BenchOptions) -> Measurement:
    """Run a ``film`` workload.

    Raises:
        ConfigError: the recipe or an option is not usable.
        WeightsError: a checkpoint file is missing or broken.
        BackendUnavailableError: the backend asked for cannot run here.
    """
    watch = Stopwatch(options.torch_device())
    model = resolve_model(workload.recipe["model"])

    def load(profile: str, backend: str) -> ModelBundle:
        return load_model(
            model, device=options.device, backend=backend, profile=profile, dtype=options.dtype
        )

    begun = watch.now_ns()
    bundle = load(options.profile, options.backend)
    load_s = (watch.now_ns() - begun) / 1e9
    return measure_bundle(
        bundle, workload, options, watch, load_s=load_s, load_exact=lambda: load("exact", "eager")
    )


def measure_bundle(
    bundle: ModelBundle,
    workload: Workload,
    options: BenchOptions,
    watch: Stopwatch,
    *,
    load_s: float,
    load_exact: Callable[[], ModelBundle],
) -> Measurement:
    """Measure a loaded model, and close it.

    Args:
        bundle: the model.
        workload: of kind ``film``.
        options: how.
        watch: takes the samples.
        load_s: how long loading took.
        load_exact: loads it with profile ``exact``; called for a lossy profile's fidelity.
    """
    recipe, config, profile = workload.recipe, bundle.config, find_profile(options.profile)
    story = find_story(recipe["story"]).first(recipe["shots"])
    backend, noise = bundle.pipeline.backend, PhiloxNoise(recipe["seed"])
    student, dtype = student_of(backend), DTYPES[backend.info.dtype]
    checked = checked_chunks(config, full=options.full_check or profile.lossy)
    inputs = _first_shot(bundle, story)
    measured = run_shot(bundle.pipeline, inputs, noise, chunks=checked)
    frames = _decode(bundle, measured) if profile.lossy else []
    watch.clear()

    plain_watch = Stopwatch(bundle.device)

    def open_plain() -> PlainFilm:
        return PlainFilm(bundle, student, plain_watch, seed=recipe["seed"])

    timed = TimedPipeline(bundle.pipeline, watch)
    wrapped = replace(
        bundle,
        pipeline=timed,
        codec=TimedCodec(bundle.codec, watch),
        text=TimedText(bundle.text, watch),
    )
    samples = _measure_session(
        wrapped, timed, story, options, watch, open_plain if options.baseline else None,
        seed=recipe["seed"],
    )  # fmt: skip
    samples["startup_s"] = [samples["startup_s"][0] + load_s]
    add_rates(samples, config.shot)

    fidelity = roofline = None
    if profile.lossy:
        exact = load_exact()
        latents = run_shot(exact.pipeline, inputs, noise, chunks=checked)
        info = exact.pipeline.backend.info
        fidelity = compare_fidelity(
            measured, latents, frames, _decode(exact, latents),
            reference=f"exact, {info.name}, {info.kernel_set}, {info.dtype}",
        )  # fmt: skip
        exact.close()
    if options.roofline:
        roofline = _roofline(bundle, inputs, samples, watch, dtype)
    _log.info("comparing with the oracle")
    wanted = run_shot(reference_pipeline(student, config, profile), inputs, noise, chunks=checked)
    return Measurement(
        info=backend.info,
        samples=samples,
        correctness=compare_latents(measured, wanted, dtype, profile),
        timer=watch.timer,
        consumer="fast",
        baseline=baseline_samples(plain_watch, config.shot),
        fidelity=fidelity,
        roofline=roofline,
    )


def _decode(bundle: ModelBundle, chunks: Sequence[Tensor]) -> list[Tensor]:
    """Return the frames of a shot's first chunks on the host, by chunk."""
    decoder = bundle.codec.decoder()
    return [decoder.decode(chunk)[0].cpu() for chunk in chunks]


def _roofline(
    bundle: ModelBundle,
    inputs: ShotInputs,
    samples: dict[str, list[float]],
    watch: Stopwatch,
    dtype: torch.dtype,
) -> Roofline:
    """Put every stage of the film under the device's ceilings."""
    config, codec, device = bundle.config, bundle.codec, bundle.device
    pack = pack_stage(config, codec)
    height, width = codec.pixel_size(config.model.latent_height, config.model.latent_width)
    count = codec.temporal_stride * config.shot.chunk_frames
    pictures = torch.zeros(count, 3, height, width, device=device)
    packer = decoder_kernels(device).frame_pack
    watch.clear()
    for _ in range(_PACKS):
        with watch.time_ms(pack.metric):
            packer(pictures)
    times = {**samples, pack.metric: watch.samples()[pack.metric][1:]}
    lengths = inputs.captions.lengths
    float8 = "fp8" in bundle.pipeline.backend.info.kernel_set
    stages = [
        text_stage(network_of(bundle.text), lengths[-1]),
        *student_stages(config, lengths, 1 if float8 else dtype.itemsize),
        *codec_stages(codec, config),
        pack,
    ]
    return measure_roofline(stages, times, device, dtype, config.model, float8=float8)


def _measure_session(
    bundle: ModelBundle,
    timed: TimedPipeline,
    story: Story,
    options: BenchOptions,
    watch: Stopwatch,
    open_plain: Callable[[], PlainFilm] | None,
    *,
    seed: int,
) -> dict[str, list[float]]:
    """Play the story ``repeats`` times in one session, then change captions of running shots.

    By turns with the baseline, if there is one: so both meet the same neighbours.
    """
    begun = watch.now_ns()
    with Session(bundle, seed=seed, threads=options.threads) as session:
        session.cut(story.shots[0])
        next(session.chunks())
        startup_s = (watch.now_ns() - begun) / 1e9
        drain(session, watch)
        for _ in range(options.warmup):
            session.cut(story.shots[0])
            drain(session, watch)
        peak_mib = peak_memory_mib(bundle.device)  # what the baseline takes does not count
        plain = None
        if open_plain is not None:
            plain = open_plain()
            if options.warmup:
                plain.warm_up(story.first(1))
        timed.forget()
        for repeat in range(options.repeats):
            play(session, story, watch)
            if plain is not None:
                plain.play(story)
            _log.info("film %d of %d", repeat + 1, options.repeats)
        timed.finish_shot()
        for shot in session.stats["shots"][-len(story.shots) * options.repeats :]:
            watch.add("first_frame_ms", shot["first_frame_ms"])
            watch.add("cut_ms", shot["cut_ms"])
        watch.add("startup_s", startup_s)
        watch.add("peak_memory_mib", peak_memory_mib(bundle.device) if plain is None else peak_mib)
        if plain is not None:
            plain.close()
        samples = watch.samples()
        # A changed caption slows its shot, so that is measured in shots of their own.
        for _ in range(options.repeats):
            samples.setdefault("prompt_ms", []).extend(steer(session, timed, story))
    return samples


def _first_shot(bundle: ModelBundle, story: Story) -> ShotInputs:
    """Return what the story's first shot begins with."""
    config, model = bundle.config, bundle.config.model
    budget = config.cache.context_frames
    embeddings, lengths = bundle.text.encode([story.captions[0]])
    shape = (1, budget, model.in_dim, model.latent_height, model.latent_width)
    return ShotInputs(
        shot=0,
        context=torch.zeros(shape),
        flags=[0] * budget,
        captions=CaptionSet(embeddings=embeddings, lengths=tuple(lengths)),
        target_flag=1,
    )


def find_story(name: str) -> Story:
    """Return a story from its file, or one of the package by its name."""
    return Story.from_json(name) if name.endswith(".json") else Story.bundled(name)
