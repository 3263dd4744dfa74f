"""A run for profilers to look at: ``python -m shotstream_rt.bench profile``.

Opens and warms up a workload, then marks the shots to look at by the CUDA profiler's start and
stop calls, so that ``nsys --capture-range=cudaProfilerApi`` and ``ncu --profile-from-start off``
see these alone. Where Nsight Systems is not at hand, ``--trace FILE`` writes a timeline with
torch's own profiler. Nothing is timed here: a profiled run is slower than a measured one.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from shotstream_rt.errors import ConfigError, OutputError
from shotstream_rt.model.loading import load_model
from shotstream_rt.noise import PhiloxNoise
from shotstream_rt.session import Session

from .film_run import find_story
from .options import DTYPES, BenchOptions
from .random_checkpoint import resolve_model
from .shot_inputs import run_shot
from .student_run import open_student
from .workloads import Workload, find_workload

_log = logging.getLogger("shotstream_rt.bench")


def profile_parser() -> argparse.ArgumentParser:
    """Return the parser of ``profile``."""
    out = argparse.ArgumentParser(
        prog="python -m shotstream_rt.bench profile",
        description="Warm up a workload and run shots between the CUDA profiler's start and stop "
        "calls; see docs/profiling.md.",
    )
    out.add_argument("--workload", default="nano-story", metavar="ID", help="default nano-story")
    out.add_argument("--shots", type=int, default=1, metavar="N", help="shots to look at (1)")
    out.add_argument("--device", default="auto")
    out.add_argument("--backend", default="auto")
    out.add_argument("--kernels", metavar="SET", help="kernel set and its parts")
    out.add_argument("--profile", default="exact", help="of the runtime, such as exact or fp8")
    out.add_argument("--dtype", choices=tuple(DTYPES))
    out.add_argument("--threads", type=int, metavar="N")
    out.add_argument("--trace", metavar="FILE.json", help="write a Chrome or Perfetto timeline")
    return out


def profile(asked: argparse.Namespace) -> None:
    """Run what ``profile_parser`` understood.

    Raises:
        ConfigError: the workload or an option is not usable.
        OutputError: the trace cannot be written.
    """
    if not 1 <= asked.shots <= 100:
        raise ConfigError(f"shots: got {asked.shots}, wanted 1 to 100")
    options = BenchOptions(
        device=asked.device, backend=asked.backend, kernels=asked.kernels, profile=asked.profile,
        dtype=asked.dtype, threads=asked.threads,
    )  # fmt: skip
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    workload = find_workload(asked.workload)
    if workload.kind == "kernels":
        raise ConfigError(
            f"workload {workload.id}: kernels are profiled by: ncu ... pytest bench --workload ID"
        )
    trace = None if asked.trace is None else Path(asked.trace)
    run = _student_run if workload.kind == "student" else _film_run
    with run(workload, options) as play:
        play(1)
        _log.info("warm; looking at %d shot(s)", asked.shots)
        with looking(options.torch_device(), trace):
            play(asked.shots)


@contextmanager
def looking(device: torch.device, trace: Path | None) -> Iterator[None]:
    """Mark what is enclosed for profilers, and write its timeline if asked.

    Raises:
        OutputError: the trace cannot be written.
    """
    on_gpu = device.type == "cuda"
    if trace is not None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
        # A session works in threads of its own.
        every = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
        with torch.profiler.profile(activities=kinds, experimental_config=every) as profiler:
            yield
        try:
            trace.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(trace))
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{trace}: cannot write the timeline: {error}") from error
        return
    if not on_gpu:
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.cudart().cudaProfilerStart()
    yield
    torch.cuda.synchronize(device)
    torch.cuda.cudart().cudaProfilerStop()


@contextmanager
def _student_run(workload: Workload, options: BenchOptions) -> Iterator[Callable[[int], None]]:
    pipeline, inputs, _ = open_student(workload, options)
    noise = PhiloxNoise(workload.recipe["seed"])

    def play(shots: int) -> None:
        for number in range(shots):
            run_shot(pipeline, inputs[number % len(inputs)], noise)

    yield play
    pipeline.close()


@contextmanager
def _film_run(workload: Workload, options: BenchOptions) -> Iterator[Callable[[int], None]]:
    bundle = load_model(
        resolve_model(workload.recipe["model"]), device=options.device, backend=options.backend,
        profile=options.profile, dtype=options.dtype,
    )  # fmt: skip
    story: Sequence[str] = find_story(workload.recipe["story"]).shots
    with Session(bundle, seed=workload.recipe["seed"], threads=options.threads) as session:

        def play(shots: int) -> None:
            for number in range(shots):
                session.cut(story[number % len(story)])
            for _ in session.chunks():
                pass

        yield play
