"""What ``bench profile`` plays and looks at: a student alone or a film, its stages timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from shotstream_rt.backends.base import BackendInfo
from shotstream_rt.config import StreamConfig
from shotstream_rt.loading.load_model import Model
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.session import Session

from .ceilings import FLOAT8, measure_ceilings
from .film_run import find_story
from .memory_table import MemoryTable, device_bytes, memory_table
from .options import DTYPES, BenchOptions
from .random_checkpoint import resolve_model
from .shot_inputs import frames_of, run_shot
from .stage_summary import StageClock, StageSummary, total_stages
from .student_run import open_student
from .timed import TimedModel, TimedPipeline
from .work import Stage, codec_stages, network_of, student_stages, text_stage
from .workloads import Workload

_QUEUE_CHUNKS = 2
"""Chunks that may wait for the reader, as a session has it where nothing else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A workload, open and ready to be played.

    Attributes:
        play: plays the next shots, so many.
        watch: times its stages.
        config: of the film.
        info: of the backend.
        captions: real tokens of each caption that a shot attends to.
        film_bytes: what the film's passes took from a GPU's allocator.
        model: the loaded model; None for a student alone.
    """

    play: Callable[[int], None]
    watch: StageClock
    config: StreamConfig
    info: BackendInfo
    captions: Sequence[int]
    film_bytes: int
    model: Model | None = None

    def summary(self, workload: str, shots: int, wall_s: float) -> StageSummary:
        """Measure the device's ceilings and add up the stages that were timed.

        Args:
            workload: its id.
            shots: how many were played.
            wall_s: seconds they took.
        """
        samples, host = self.watch.samples(), self.watch.host_samples()
        dtype, device = DTYPES[self.info.dtype], torch.device(self.info.device)
        ceilings = measure_ceilings(device, dtype, self.config.model)
        kind = self.info.dtype
        if "fp8" in self.info.kernel_set and FLOAT8 in ceilings.gemm_tflops:
            kind = FLOAT8
        return StageSummary(
            workload=workload,
            device=device.type,
            dtype=kind,
            shots=shots,
            frames=shots * frames_of(self.config.shot.shot_frames),
            wall_s=wall_s,
            ceilings=ceilings,
            stages=total_stages(
                samples, host, self._stages(1 if kind == FLOAT8 else dtype.itemsize), ceilings,
                kind, wall_ms=1e3 * wall_s,
            ),
        )  # fmt: skip

    def memory(self) -> MemoryTable:
        """Count what the film holds."""
        return memory_table(
            self.config, self.info, model=self.model, film_bytes=self.film_bytes,
            queue_chunks=_QUEUE_CHUNKS,
        )  # fmt: skip

    def _stages(self, itemsize: int) -> list[Stage]:
        stages = student_stages(self.config, self.captions, itemsize)
        if self.model is not None:
            text = text_stage(network_of(self.model.text), self.captions[-1])
            stages += [text, *codec_stages(self.model.codec, self.config)]
        return stages


def open_subject(workload: Workload, options: BenchOptions) -> AbstractContextManager[Subject]:
    """Open what is to be played; closed at the end of the ``with`` block.

    Args:
        workload: of kind ``student`` or ``film``.
        options: how.
    """
    return _student(workload, options) if workload.kind == "student" else _film(workload, options)


@contextmanager
def _student(workload: Workload, options: BenchOptions) -> Iterator[Subject]:
    config, backend, inputs, _ = open_student(workload, options)
    watch = StageClock(options.torch_device())
    before = device_bytes(backend.device)
    plain = Pipeline(config, backend.new_film())
    film_bytes = device_bytes(backend.device) - before
    pipeline = TimedPipeline(plain, watch)
    noise, following = PhiloxNoise(workload.recipe["seed"]), itertools.cycle(inputs)

    def play(shots: int) -> None:
        for _ in range(shots):
            run_shot(pipeline, next(following), noise)

    yield Subject(
        play=play, watch=watch, config=config, info=backend.info,
        captions=inputs[-1].captions.lengths, film_bytes=film_bytes,
    )  # fmt: skip
    pipeline.close()


@contextmanager
def _film(workload: Workload, options: BenchOptions) -> Iterator[Subject]:
    model = Model.open(
        resolve_model(workload.recipe["model"]), device=options.device, backend=options.backend,
        profile=options.profile, dtype=options.dtype,
    )  # fmt: skip
    story = find_story(workload.recipe["story"]).shots
    watch = StageClock(model.device)
    before = device_bytes(model.device)
    plain = model.new_pipeline()
    film_bytes = device_bytes(model.device) - before
    pipeline = TimedPipeline(plain, watch)
    _, lengths = model.text.encode([story[0]])
    with (
        model,
        TimedModel(model, pipeline, watch) as timed,
        Session(
            timed, seed=workload.recipe["seed"], threads=options.threads,
            queue_chunks=_QUEUE_CHUNKS,
        ) as session,
    ):  # fmt: skip
        following = itertools.cycle(story)

        def play(shots: int) -> None:
            for _ in range(shots):
                session.cut(next(following))
            for _ in session.chunks():
                pass

        yield Subject(
            play=play, watch=watch, config=model.config, info=model.backend.info,
            captions=lengths, film_bytes=film_bytes, model=model,
        )  # fmt: skip
