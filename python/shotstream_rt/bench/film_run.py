"""Measures a whole film: prompts into a session, frames on the host out of it.

The consumer takes every chunk at once, so the rates are those of the runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from shotstream_rt.kernels.sets.decoder_set import decoder_kernels
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.student import Student
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.profiles import find_profile
from shotstream_rt.session import Session
from shotstream_rt.shot_inputs import ShotInputs
from shotstream_rt.story import Story

from .baseline import Baseline
from .fidelity import compare_fidelity
from .film_play import drain, play, steer
from .measurement import Measurement, SaveUnchecked, add_rates
from .options import DTYPES, BenchOptions
from .oracle import checked_chunks, compare_latents, reference_pipeline
from .oracle_precision import oracle_products
from .plain_film import PlainFilm
from .random_checkpoint import resolve_model
from .roofline import Roofline, measure_roofline
from .shot_inputs import run_shot
from .stopwatch import Stopwatch, peak_memory_mib
from .timed import TimedModel, TimedPipeline
from .work import codec_stages, network_of, pack_stage, student_stages, text_stage
from .workloads import Workload

_PACKS = 20
"""Timed packings of a chunk, the first one not counted."""

_log = logging.getLogger("shotstream_rt.bench")


def measure_film(
    workload: Workload, options: BenchOptions, save_unchecked: SaveUnchecked
) -> Measurement:
    """Run a ``film`` workload.

    Args:
        workload: of kind ``film``.
        options: how.
        save_unchecked: gets the measurement before its correctness check begins.

    Raises:
        ConfigError: the recipe or an option is not usable.
        WeightsError: a checkpoint file is missing or broken.
        BackendUnavailableError: the backend asked for cannot run here.
    """
    watch = Stopwatch(options.torch_device())
    model = resolve_model(workload.recipe["model"])

    def load(profile: str, backend: str) -> Model:
        return Model.open(
            model, device=options.device, backend=backend, profile=profile, dtype=options.dtype,
            lora=options.lora, ema=options.ema, student=options.student, engines=options.engines,
        )  # fmt: skip

    begun = watch.now_ns()
    bundle = load(options.profile, options.backend)
    load_s = (watch.now_ns() - begun) / 1e9
    return measure_bundle(
        bundle, workload, options, watch, load_s=load_s,
        load_exact=lambda: load("exact", "eager"), save_unchecked=save_unchecked,
    )  # fmt: skip


def measure_bundle(
    bundle: Model,
    workload: Workload,
    options: BenchOptions,
    watch: Stopwatch,
    *,
    load_s: float,
    load_exact: Callable[[], Model],
    save_unchecked: SaveUnchecked,
) -> Measurement:
    """Measure a loaded model, and close it.

    Args:
        bundle: the model.
        workload: of kind ``film``.
        options: how.
        watch: takes the samples.
        load_s: how long loading took.
        load_exact: loads it with profile ``exact``; called for a lossy profile's fidelity.
        save_unchecked: gets the measurement before its correctness check begins.
    """
    recipe, config, profile = workload.recipe, bundle.config, find_profile(options.profile)
    story = find_story(recipe["story"]).first(recipe["shots"])
    info, noise = bundle.backend.info, PhiloxNoise(recipe["seed"])
    dtype = DTYPES[info.dtype]
    checked = checked_chunks(config, full=options.checks_whole_shot)
    inputs = first_shot(bundle, story)
    pipeline = bundle.new_pipeline()
    measured = run_shot(pipeline, inputs, noise, chunks=checked)
    judged = profile.lossy and not options.quick  # measure its distance to exact, too
    frames = _decode(bundle, measured) if judged else []
    watch.clear()

    def open_plain() -> PlainFilm:
        student = Student.from_state(
            bundle.weights(), config.model, source=bundle.name, device=bundle.device, dtype=dtype
        )
        return PlainFilm(bundle, student, seed=recipe["seed"])

    timed = TimedPipeline(pipeline, watch)
    with TimedModel(bundle, timed, watch) as wrapped:
        samples, baseline = _measure_session(
            wrapped, timed, story, options, watch, open_plain if options.baseline else None,
            seed=recipe["seed"],
        )  # fmt: skip
    samples["startup_s"] = [samples["startup_s"][0] + load_s]
    add_rates(samples, config.shot)

    measurement = Measurement(
        info=info,
        samples=samples,
        correctness=None,
        timer=watch.timer,
        consumer="fast",
        baseline=baseline,
    )
    save_unchecked(measurement)

    fidelity = roofline = None
    if judged:
        exact = load_exact()
        latents = run_shot(exact.new_pipeline(), inputs, noise, chunks=checked)
        told = exact.backend.info
        fidelity = compare_fidelity(
            measured, latents, frames, _decode(exact, latents),
            reference=f"exact, {told.name}, {told.kernel_set}, {told.dtype}",
        )  # fmt: skip
        exact.close()
    if options.roofline:
        roofline = _roofline(bundle, inputs, samples, watch, dtype)
    _log.info("comparing with the oracle")
    with oracle_products(options, dtype) as reference:
        oracle = reference_pipeline(
            bundle.weights, config, device=bundle.device, dtype=dtype, profile=profile
        )
        wanted = run_shot(oracle, inputs, noise, chunks=checked)
    bundle.close()
    correctness = compare_latents(measured, wanted, dtype, profile)
    return replace(
        measurement,
        correctness=replace(correctness, reference=reference),
        fidelity=fidelity,
        roofline=roofline,
    )


def _decode(bundle: Model, chunks: Sequence[Tensor]) -> list[Tensor]:
    """Return the frames of a shot's first chunks on the host, by chunk."""
    decoder = bundle.codec.decoder()
    return [decoder.decode(chunk)[0].cpu() for chunk in chunks]


def _roofline(
    bundle: Model,
    inputs: ShotInputs,
    samples: dict[str, list[float]],
    watch: Stopwatch,
    dtype: torch.dtype,
) -> Roofline:
    """Compare every stage of the film with the device's ceilings."""
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
    float8 = "fp8" in bundle.backend.info.kernel_set
    stages = [
        text_stage(network_of(bundle.text), lengths[-1]),
        *student_stages(config, lengths, 1 if float8 else dtype.itemsize),
        *codec_stages(codec, config),
        pack,
    ]
    return measure_roofline(stages, times, device, dtype, config.model, float8=float8)


def _measure_session(
    bundle: Model,
    timed: TimedPipeline,
    story: Story,
    options: BenchOptions,
    watch: Stopwatch,
    open_plain: Callable[[], PlainFilm] | None,
    *,
    seed: int,
) -> tuple[dict[str, list[float]], Baseline | None]:
    """Play the story ``repeats`` times in one session, then change captions of running shots.

    Alternates with the baseline, if there is one, so that other load on the machine affects both
    alike. A quick run changes no captions.
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
        baseline = None
        if plain is not None:
            baseline = plain.result()
            plain.close()
        samples = watch.samples()
        # A changed caption slows its shot, so that is measured in shots of their own.
        for _ in range(0 if options.quick else options.repeats):
            samples.setdefault("prompt_ms", []).extend(steer(session, timed, story))
    return samples, baseline


def first_shot(bundle: Model, story: Story) -> ShotInputs:
    """Return what the story's first shot begins with."""
    config, model = bundle.config, bundle.config.model
    budget = config.cache.context_frames
    embeddings, lengths = bundle.text.encode([story.captions[0]])
    shape = (1, budget, model.in_dim, model.latent_height, model.latent_width)
    return ShotInputs(
        shot=0,
        context=torch.zeros(shape),
        flags=[0] * budget,
        captions=CaptionSet(embeddings=embeddings, lengths=tuple(lengths)).checked(),
        target_flag=1,
    )


def find_story(name: str) -> Story:
    """Return a story from its file, or one of the package by its name."""
    return Story.from_json(name) if name.endswith(".json") else Story.bundled(name)
