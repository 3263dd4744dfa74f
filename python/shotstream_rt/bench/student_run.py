"""Measures the student's passes alone, on random weights: no text encoder, codec or session."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from shotstream_rt import env
from shotstream_rt.backends import registry
from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.profiles import find_profile
from shotstream_rt.shot_inputs import ShotInputs

from .baseline import BaselineRuns
from .fidelity import compare_fidelity
from .measurement import Measurement, SaveUnchecked, add_rates
from .options import DTYPES, BenchOptions
from .oracle import checked_chunks, compare_latents, reference_pipeline
from .oracle_precision import oracle_products
from .roofline import measure_roofline
from .shot_inputs import random_inputs, run_shot
from .stopwatch import Stopwatch, peak_memory_mib
from .timed import TimedPipeline
from .work import student_stages
from .workloads import Workload

_log = logging.getLogger("shotstream_rt.bench")


def random_student(
    config: StreamConfig, *, seed: int, device: torch.device | None = None
) -> Student:
    """Return a float32 student in which every part affects the result.

    Torch's own initial weights, but the time modulation is drawn again at unit size: with torch's
    its gates would almost close every block, and an error inside one would not show.

    Args:
        config: of the film; gives the shape.
        seed: of the weights.
        device: where it is made; default: the CPU.
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
) -> tuple[StreamConfig, StudentBackend, list[ShotInputs], Student]:
    """Build the backend of a ``student`` workload, the inputs of its shots and its weights.

    Raises:
        ConfigError: the recipe does not describe a student, or the profile is about frames.
        BackendUnavailableError: the backend or the kernels asked for cannot run here.
    """
    profile = find_profile(options.profile)
    if profile.decoder != "codec" or profile.fewer_steps:
        what = "how many steps a chunk has" if profile.fewer_steps else "how frames are decoded"
        raise ConfigError(
            f"profile {options.profile}: changes {what}, and workload {workload.id} measures the "
            "student's passes as they are; use a film, such as --model DIR, or profile exact"
        )
    recipe, device = workload.recipe, options.torch_device()
    config = StreamConfig.from_dict(recipe["stream"])
    inputs = random_inputs(
        config, shots=recipe["shots"], text_tokens=recipe["text_tokens"], seed=recipe["seed"]
    )
    student = random_student(config, seed=recipe["seed"], device=device)
    student = student.to(DTYPES[options.dtype or "float32"])
    request = _request(
        student, config, options.kernels or env.kernel_set(), tuple(profile.kernel_parts)
    )
    if options.engines is not None:
        request = replace(request, engines=Path(options.engines))
    return config, registry.resolve(options.backend, request), inputs, student


def _request(
    student: Student, config: StreamConfig, kernels: str, lossy_parts: tuple[str, ...] = ()
) -> BackendRequest:
    return BackendRequest(
        config=config,
        device=student.patch_embedding.weight.device,
        dtype=student.dtype,
        weights=student.state_dict,
        kernel_set=kernels,
        lossy_parts=lossy_parts,
    )


def measure_student(
    workload: Workload, options: BenchOptions, save_unchecked: SaveUnchecked
) -> Measurement:
    """Run a ``student`` workload.

    Args:
        workload: of kind ``student``.
        options: how.
        save_unchecked: gets the measurement before its correctness check begins.

    Raises:
        ConfigError: the recipe does not describe a student, or the profile is about frames.
        BackendUnavailableError: the backend asked for cannot run here.
    """
    profile, device = find_profile(options.profile), options.torch_device()
    noise = PhiloxNoise(workload.recipe["seed"])
    watch = Stopwatch(device)

    begun = watch.now_ns()
    config, backend, inputs, student = open_student(workload, options)
    dtype = student.dtype
    pipeline = TimedPipeline(Pipeline(config, backend.new_film()), watch)
    checked = checked_chunks(config, full=options.checks_whole_shot)
    # The last shot has the most context to get wrong.
    measured = run_shot(pipeline, inputs[-1], noise, chunks=checked)
    startup_s, peak_mib = (watch.now_ns() - begun) / 1e9, peak_memory_mib(device)

    plain = BaselineRuns(student, config) if options.baseline else None
    for repeat in range(options.warmup + options.repeats):
        if repeat == options.warmup:
            watch.clear()
            if plain is not None:
                plain.clear()
        # Alternately, so that other load on the machine affects both alike.
        _run_film(pipeline, inputs, noise)
        for pipeline_beside, _ in plain.turns() if plain is not None else ():
            _run_film(pipeline_beside, inputs, noise, commit_last=True)
        _log.info("film %d of %d", repeat + 1, options.warmup + options.repeats)
    samples = watch.samples()
    samples["startup_s"], samples["peak_memory_mib"] = [startup_s], [peak_mib]
    add_rates(samples, config.shot)
    baseline = None
    if plain is not None:
        baseline = plain.result()
        plain.close()
    measurement = Measurement(
        info=backend.info,
        samples=samples,
        correctness=None,
        timer=watch.timer,
        consumer="none",
        baseline=baseline,
    )
    save_unchecked(measurement)

    fidelity = None
    if profile.lossy:
        exact = registry.resolve("eager", _request(student, config, env.kernel_set()))
        latents = run_shot(Pipeline(config, exact.new_film()), inputs[-1], noise, chunks=checked)
        exact_name = f"exact, eager, {exact.info.kernel_set}, {exact.info.dtype}"
        fidelity = compare_fidelity(measured, latents, reference=exact_name)
    roofline = None
    if options.roofline:
        float8 = "fp8" in backend.info.kernel_set
        itemsize = 1 if float8 else dtype.itemsize
        stages = student_stages(config, inputs[-1].captions.lengths, itemsize)
        roofline = measure_roofline(stages, samples, device, dtype, config.model, float8=float8)
    _log.info("comparing with the oracle")
    with oracle_products(options, dtype) as reference:
        oracle = reference_pipeline(
            student.state_dict, config, device=device, dtype=dtype, profile=profile
        )
        wanted = run_shot(oracle, inputs[-1], noise, chunks=checked)
    correctness = compare_latents(measured, wanted, dtype, profile)
    return replace(
        measurement,
        correctness=replace(correctness, reference=reference),
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
