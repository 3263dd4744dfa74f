"""Measures the student's passes alone, on random weights: no text encoder, codec or session."""

from __future__ import annotations

import logging

import torch
from torch import nn

from shotstream_rt.backends import registry
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.model.student import Student
from shotstream_rt.noise import PhiloxNoise
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.profiles import find_profile

from .fidelity import compare_fidelity
from .measurement import Measurement, add_rates, baseline_samples
from .options import DTYPES, BenchOptions
from .oracle import checked_chunks, compare_latents, reference_pipeline
from .plain_student import PlainStudent
from .roofline import measure_roofline
from .shot_inputs import ShotInputs, random_inputs, run_shot
from .stopwatch import Stopwatch, peak_memory_mib
from .timed import TimedPipeline
from .work import student_stages
from .workloads import Workload

_log = logging.getLogger("shotstream_rt.bench")


def random_student(
    config: StreamConfig, *, seed: int, device: torch.device | None = None
) -> Student:
    """Return a float32 student whose every part has a say in the result; default: on the CPU.

    Torch's own initial weights, but the time modulation is redrawn at unit size: its gates would
    else all but close every block, and an error inside one would not show.
    """
    device = device or torch.device("cpu")
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), device:
        torch.manual_seed(seed)
        student = Student(config.model)
        with torch.no_grad():
            for block in student.layers:
                nn.init.normal_(block.modulation, std=0.5)
            nn.init.normal_(student.head.modulation, std=0.5)
    return student.eval().requires_grad_(False)


def open_student(
    workload: Workload, options: BenchOptions
) -> tuple[Pipeline, list[ShotInputs], Student]:
    """Build the pipeline of a ``student`` workload, the inputs of its shots and its weights.

    Raises:
        ConfigError: the recipe does not describe a student, or the profile is about frames.
        BackendUnavailableError: the backend or the kernels asked for cannot run here.
    """
    profile = find_profile(options.profile)
    if profile.decoder != "codec":
        raise ConfigError(
            f"profile {options.profile}: changes how frames are decoded, and workload "
            f"{workload.id} makes none; use a film, such as --model DIR, or profile exact"
        )
    recipe, device = workload.recipe, options.torch_device()
    config = StreamConfig.from_dict(recipe["stream"])
    inputs = random_inputs(
        config, shots=recipe["shots"], text_tokens=recipe["text_tokens"], seed=recipe["seed"]
    )
    student = random_student(config, seed=recipe["seed"], device=device)
    student = student.to(DTYPES[options.dtype or "float32"])
    backend = registry.resolve(
        options.backend, student, config, device,
        kernels=options.kernels, lossy_parts=profile.kernel_parts,
    )  # fmt: skip
    return Pipeline(config, backend), inputs, student


def measure_student(workload: Workload, options: BenchOptions) -> Measurement:
    """Run a ``student`` workload.

    Raises:
        ConfigError: the recipe does not describe a student, or the profile is about frames.
        BackendUnavailableError: the backend asked for cannot run here.
    """
    profile, device = find_profile(options.profile), options.torch_device()
    noise = PhiloxNoise(workload.recipe["seed"])
    watch, plain_watch = Stopwatch(device), Stopwatch(device)

    begun = watch.now_ns()
    bare, inputs, student = open_student(workload, options)
    config, backend, dtype = bare.config, bare.backend, student.dtype
    pipeline = TimedPipeline(bare, watch)
    checked = checked_chunks(config, full=options.full_check or profile.lossy)
    # The last shot has the most context to get wrong.
    measured = run_shot(pipeline, inputs[-1], noise, chunks=checked)
    startup_s, peak_mib = (watch.now_ns() - begun) / 1e9, peak_memory_mib(device)

    plain = None
    if options.baseline:
        plain = TimedPipeline(Pipeline(config, PlainStudent(student, config)), plain_watch)
    for repeat in range(options.warmup + options.repeats):
        if repeat == options.warmup:
            watch.clear()
            plain_watch.clear()
        # By turns, so that both meet the same neighbours on a busy machine.
        _run_film(pipeline, inputs, noise)
        if plain is not None:
            _run_film(plain, inputs, noise, commit_last=True)
        _log.info("film %d of %d", repeat + 1, options.warmup + options.repeats)
    samples = watch.samples()
    samples["startup_s"], samples["peak_memory_mib"] = [startup_s], [peak_mib]
    add_rates(samples, config.shot)
    if plain is not None:
        plain.close()

    fidelity = None
    if profile.lossy:
        exact = Pipeline(config, registry.resolve("eager", student, config, device))
        latents = run_shot(exact, inputs[-1], noise, chunks=checked)
        reference = f"exact, eager, {exact.backend.info.kernel_set}, {exact.backend.info.dtype}"
        fidelity = compare_fidelity(measured, latents, reference=reference)
    roofline = None
    if options.roofline:
        float8 = "fp8" in backend.info.kernel_set
        itemsize = 1 if float8 else dtype.itemsize
        stages = student_stages(config, inputs[-1].captions.lengths, itemsize)
        roofline = measure_roofline(stages, samples, device, dtype, config.model, float8=float8)
    _log.info("comparing with the oracle")
    oracle = reference_pipeline(student, config, profile)
    wanted = run_shot(oracle, inputs[-1], noise, chunks=checked)
    return Measurement(
        info=backend.info,
        samples=samples,
        correctness=compare_latents(measured, wanted, dtype, profile),
        timer=watch.timer,
        consumer="none",
        baseline=baseline_samples(plain_watch, config.shot),
        fidelity=fidelity,
        roofline=roofline,
    )


def _run_film(
    pipeline: TimedPipeline,
    inputs: list[ShotInputs],
    noise: PhiloxNoise,
    *,
    commit_last: bool = False,
) -> None:
    for shot in inputs:
        run_shot(pipeline, shot, noise, commit_last=commit_last)
        pipeline.finish_shot()
